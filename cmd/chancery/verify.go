package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/signer/client"
)

type verifyFlags struct {
	jwks, issuer, audience string
	types                  []string
	leeway                 time.Duration
}

func (a *app) verifyCommand() *cobra.Command {
	var f verifyFlags
	c := &cobra.Command{
		Use:   "verify TOKEN|-",
		Short: "Check a JWT under the key set its issuer publishes",
		Long: "Check a JWT: its signature under the published key its header names, its issuer,\n" +
			"its time and its type. It exits with 1 if any of them is wrong.\n\n" +
			"With --dir the issuer is one of that daemon's; with --issuer it is the one given;\n" +
			"with --jwks alone the token's issuer is printed but not checked.",
		Example: "  chancery --dir dev verify \"$TOKEN\"\n  chancery verify --issuer https://keys.example/issuers/web - <token",
		Args:    exactly("TOKEN"),
	}
	c.Flags().StringVar(&f.jwks, "jwks", "", "URL of the key set")
	c.Flags().StringVar(&f.issuer, "issuer", "", "URL of the issuer, which must be the token's")
	c.Flags().StringVar(&f.audience, "audience", "", "audience that must be among the token's")
	c.Flags().StringSliceVar(&f.types, "typ", nil, "accepted types (default JWT,at+jwt)")
	c.Flags().DurationVar(&f.leeway, "leeway", 0, "difference of clocks to forgive")
	c.RunE = does(func(ctx context.Context, args []string) error { return a.verify(ctx, args[0], f) })
	return c
}

func (a *app) verify(ctx context.Context, token string, f verifyFlags) error {
	if f.issuer == "" && f.jwks == "" && a.dir == "" {
		return usagef("whose token? give --issuer URL, --jwks URL or --dir DIR")
	}
	if f.leeway < 0 {
		return usagef("verify: --leeway %v is negative", f.leeway)
	}
	if token == "-" {
		data, err := a.input("-")
		if err != nil {
			return err
		}
		token = string(data)
	}
	token = strings.TrimSpace(token)
	header, issuer, err := client.Unverified(token)
	if err != nil {
		return err
	}
	cfg := client.VerifierConfig{
		Issuer: f.issuer, JWKS: f.jwks, Audience: f.audience, Types: f.types, Leeway: f.leeway,
	}
	note := ""
	switch {
	case f.issuer != "":
	case f.jwks != "":
		cfg.Issuer, note = issuer, " (not checked: no --issuer)"
	default:
		if cfg.Issuer, err = a.ownIssuer(issuer); err != nil {
			return err
		}
		cfg.JWKS = cfg.Issuer + "/jwks.json"
	}
	v, err := client.NewVerifier(cfg)
	if err != nil {
		return err
	}
	verified, err := v.Verify(ctx, token)
	if err != nil {
		return fmt.Errorf("the token does not verify: %w [kid %s, alg %s]", err, header.KID, header.Algorithm)
	}
	return a.printVerified(verified, note)
}

// ownIssuer returns the issuer of a token if the daemon of --dir is where it
// says it is from.
func (a *app) ownIssuer(issuer string) (string, error) {
	ends, err := a.endpoints()
	if err != nil {
		return "", err
	}
	name, ok := strings.CutPrefix(issuer, strings.TrimSuffix(ends.Public, "/")+"/issuers/")
	if !ok || name == "" || strings.ContainsAny(name, "/?#") {
		return "", fmt.Errorf("the token does not verify: %w: %q is not of %s", client.ErrIssuer, issuer, ends.Public)
	}
	return issuer, nil
}

func (a *app) printVerified(t *client.Token, note string) error {
	if a.json {
		return json.NewEncoder(a.out).Encode(map[string]any{
			"verified": true, "header": t.RawHeader, "claims": t.Claims,
			"key": map[string]string{"kid": t.Key.KID, "alg": t.Key.Algorithm},
		})
	}
	var claims bytes.Buffer
	if err := json.Indent(&claims, t.Claims, "", "  "); err != nil {
		return errors.New("the claims cannot be printed")
	}
	now := time.Now()
	a.printf("verified\n")
	a.printf("  header  %s\n", string(t.RawHeader))
	a.printf("  issuer  %s%s\n", t.Issuer, note)
	a.printf("  kid     %s\n", t.Key.KID)
	a.printf("  key     %s\n", t.Key.Describe())
	if !t.IssuedAt.IsZero() {
		a.printf("  issued  %s (%s)\n", when(t.IssuedAt), inTime(t.IssuedAt, now))
	}
	a.printf("  expires %s (%s)\n", when(t.Expires), inTime(t.Expires, now))
	_, err := fmt.Fprintf(a.out, "claims\n%s\n", cleanLines(claims.String()))
	return err
}
