package ca

import (
	"errors"
	"fmt"
	"strings"
)

// The limits of a DNS name (RFC 1035 Section 2.3.4), without a trailing dot.
const (
	maxName  = 253
	maxLabel = 63
)

// CheckName returns nil if name is a DNS name in the one spelling accepted:
// lower-case letters, digits and hyphens (RFC 5890 Section 2.3.1), at least two
// labels, no trailing dot, no wildcard. An internationalised label is written
// as an A-label; no other label has hyphens in its third and fourth place.
func CheckName(name string) error {
	if len(name) > maxName {
		return fmt.Errorf("it is longer than %d characters", maxName)
	}
	labels := strings.Split(name, ".")
	if len(labels) < 2 {
		return errors.New("it has fewer than two labels")
	}
	for _, label := range labels {
		if err := checkLabel(label); err != nil {
			return err
		}
	}
	// An address in dotted decimal looks like a name and is none: no top-level
	// domain is all digits (RFC 3696 Section 2).
	if strings.Trim(labels[len(labels)-1], "0123456789") == "" {
		return errors.New("its last label is a number")
	}
	return nil
}

func checkLabel(label string) error {
	switch {
	case label == "":
		return errors.New("it has an empty label or a trailing dot")
	case len(label) > maxLabel:
		return fmt.Errorf("it has a label longer than %d characters", maxLabel)
	case label[0] == '-' || label[len(label)-1] == '-':
		return errors.New("a label begins or ends with a hyphen")
	case len(label) > 3 && label[2:4] == "--" && label[:2] != "xn":
		return errors.New("a label has hyphens in its third and fourth place and is no A-label")
	}
	for _, c := range []byte(label) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return errors.New("it has a character that is not a lower-case letter, digit or hyphen")
		}
	}
	return nil
}

// allows returns nil if a certificate of the profile may hold name.
func (p *Profile) allows(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	for _, suffix := range p.under {
		if strings.HasSuffix(name, "."+suffix) {
			return nil
		}
	}
	return errors.New("it is under no name of the profile")
}
