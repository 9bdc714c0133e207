package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/signer/client"
)

type verifyFlags struct {
	jwks, issuer, audience string
	types                  []string
	leeway                 time.Duration

	at      time.Time // zero: now, by the published key set alone
	logs    []string
	keys    []string
	history string
}

func (a *app) verifyCommand() *cobra.Command {
	var f verifyFlags
	c := &cobra.Command{
		Use:   "verify TOKEN|-",
		Short: "Check a JWT under the key set its issuer publishes",
		Long: "Check a JWT: its signature under the published key its header names, its issuer,\n" +
			"its time and its type. It exits with 1 if any of them is wrong.\n\n" +
			"With --dir the issuer is one of that daemon's; with --issuer it is the one given;\n" +
			"with --jwks alone the token's issuer is printed but not checked.\n\n" +
			"With --at an old token is checked as at that time, though its key may have left the\n" +
			"set: by the log, which is verified first, or by the issuer's signed history of its\n" +
			"keys. It says what was known of the key then, what is known now, and from the log\n" +
			"which entry made the token. It exits with 0 only if the token was good at that time\n" +
			"and nothing that is known now speaks against it.",
		Example: "  chancery --dir dev verify \"$TOKEN\"\n  chancery verify --issuer https://keys.example/issuers/web - <token\n" +
			"  chancery verify --at 2026-03-01T12:00:00Z --log /var/lib/chancery/audit --key @audit.vkey - <token\n" +
			"  chancery verify --at 720h --issuer https://keys.example/issuers/web --history https://keys.example/issuers/web/historical-keys.jwt - <token",
		Args: exactly("TOKEN"),
	}
	c.Flags().StringVar(&f.jwks, "jwks", "", "URL of the key set")
	c.Flags().StringVar(&f.issuer, "issuer", "", "URL of the issuer, which must be the token's")
	c.Flags().StringVar(&f.audience, "audience", "", "audience that must be among the token's")
	c.Flags().StringSliceVar(&f.types, "typ", nil, "accepted types (default JWT,at+jwt)")
	c.Flags().DurationVar(&f.leeway, "leeway", 0, "difference of clocks to forgive")
	c.Flags().Var(moment{&f.at}, "at", "verify as at this time, or this long ago")
	c.Flags().StringArrayVar(&f.logs, "log", nil, "with --at: audit directory that knows of the key; several of one cluster's nodes (default: DIR/audit)")
	c.Flags().StringArrayVar(&f.keys, "key", nil, "with --at: log key, or @FILE or FILE with them (default: DIR/audit.vkey)")
	c.Flags().StringVar(&f.history, "history", "", "with --at: the issuer's historical keys, FILE or URL")
	c.RunE = does(func(ctx context.Context, args []string) error { return a.verify(ctx, args[0], f) })
	return c
}

func (a *app) verify(ctx context.Context, token string, f verifyFlags) error {
	if f.issuer == "" && f.jwks == "" && a.dir == "" && len(f.logs) == 0 {
		return usagef("whose token? give --issuer URL, --jwks URL or --dir DIR")
	}
	if f.leeway < 0 {
		return usagef("verify: --leeway %v is negative", f.leeway)
	}
	if err := f.wantsAt(a.dir); err != nil {
		return err
	}
	if token == "-" {
		data, err := a.input(ctx, "-")
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
	case !f.at.IsZero() && !a.knowsEndpoints(): // the log needs no daemon
		cfg.Issuer, note = issuer, " (not checked: no --issuer)"
	default:
		if cfg.Issuer, err = a.ownIssuer(issuer); err != nil {
			return err
		}
		cfg.JWKS = cfg.Issuer + "/jwks.json"
	}
	if !f.at.IsZero() {
		return a.verifyAt(ctx, token, cfg, f, note)
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

// knowsEndpoints reports whether --dir has the endpoints of a daemon.
func (a *app) knowsEndpoints() bool {
	return a.dir != "" && exists(filepath.Join(a.dir, "endpoints.json"))
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
