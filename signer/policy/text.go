package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Read returns the Policy whose Text is text. It reads that spelling only: what it
// returns has the hash of text.
func Read(text []byte) (*Policy, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	d.DisallowUnknownFields()
	var cfg Config
	if err := d.Decode(&cfg); err != nil {
		return nil, fmt.Errorf("reading the text of a policy: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("reading the text of a policy: something follows it")
	}
	for i := range cfg.Rules {
		for name, v := range cfg.Rules[i].Claims.Forced {
			n, ok := v.(json.Number)
			if !ok {
				continue
			}
			whole, err := n.Int64()
			if err != nil {
				return nil, fmt.Errorf("reading the text of a policy: claim %q: %w", name, err)
			}
			cfg.Rules[i].Claims.Forced[name] = whole
		}
	}
	p, err := New(cfg)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(p.Text(), text) {
		return nil, errors.New("reading the text of a policy: it is not written as a policy is")
	}
	return p, nil
}
