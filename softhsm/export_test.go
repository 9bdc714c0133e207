package softhsm

import "context"

// InstallHint lets the tests ask for other distributions than this one.
var InstallHint = installHint

// FindSerial returns the serial number of the token as SoftHSM sees it.
func (t *Token) FindSerial(ctx context.Context) (string, error) { return t.find(ctx, t.Conf) }
