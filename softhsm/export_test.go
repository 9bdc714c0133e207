package softhsm

// InstallHint lets the tests ask for other distributions than this one.
var InstallHint = installHint
