package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/signer/api"
)

// maxInput is the longest claims or request that is read: more than the daemon takes.
const maxInput = 1 << 20

func (a *app) signCommand() *cobra.Command {
	c := group("sign", "Have a JWT, a certificate or a digest signed", a.signJWTCommand(), a.signCSRCommand(), a.signDigestCommand())
	c.Long = "Have something signed with a key that stays in the daemon's keystore. What is signed is in\n" +
		"the log before it is printed; --json prints where. What may be signed, a rule says."
	return c
}

func (a *app) signJWTCommand() *cobra.Command {
	var keyset, claims, typ, profile, cnf string
	var ttl time.Duration
	c := &cobra.Command{
		Use:   "jwt --keyset NAME --claims JSON|@FILE|-",
		Short: "Have a JWT signed and print it",
		Long: "Have a JWT signed and print it. The claims are signed as they are written, behind\n" +
			"those the daemon sets itself (iss, iat, nbf, exp, jti), which must not be among them.",
		Example: "  chancery --dir dev sign jwt --keyset web --claims '{\"sub\":\"alice\"}' --ttl 5m\n" +
			"  chancery sign jwt --keyset api --profile at+jwt --claims '{\"sub\":\"alice\",\"client_id\":\"app\",\"aud\":\"https://api.example\"}'",
		Args: noArgs,
	}
	c.Flags().StringVar(&keyset, "keyset", "", "key set to sign with")
	c.Flags().StringVar(&claims, "claims", "", "the claims: JSON, @FILE, or - for standard input")
	c.Flags().Var(seconds{&ttl}, "ttl", "how long the token lives, such as 300 or 5m (default: the key set's)")
	c.Flags().StringVar(&typ, "typ", "", "its type (default JWT, or the profile's)")
	c.Flags().StringVar(&profile, "profile", "", "what kind of token: jwt, at+jwt, id_token, logout_token, jwt_svid, or one that is configured (default: the only one the policy names, or jwt)")
	c.Flags().StringVar(&cnf, "cnf-certificate", "", "the certificate the token is bound to, where the policy wants one named: @FILE in PEM, or its SHA-256 in base64url")
	required(c, "keyset", "claims")
	c.RunE = does(func(ctx context.Context, _ []string) error {
		raw, err := a.input(ctx, claims)
		if err != nil {
			return err
		}
		if !json.Valid(raw) {
			return errors.New("the claims are not JSON")
		}
		bound, err := a.input(ctx, cnf)
		if err != nil {
			return err
		}
		client, err := a.connect(roleIssuer)
		if err != nil {
			return err
		}
		reply, err := client.SignJWT(ctx, api.SignJWTRequest{
			KeySet: keyset, Claims: raw, TTL: wholeSeconds(c, ttl), Typ: typ, Profile: profile, CNFCertificate: string(bound),
		})
		if err != nil {
			return err
		}
		if a.json {
			return a.printReply()
		}
		_, err = fmt.Fprintln(a.out, cleanLines(reply.Token))
		return err
	})
	return c
}

func (a *app) signCSRCommand() *cobra.Command {
	var authority, profile, file, idempotencyKey, out string
	var ttl time.Duration
	var chain bool
	c := &cobra.Command{
		Use:   "csr --authority NAME --profile NAME --csr FILE",
		Short: "Have a certificate request signed and print the certificate",
		Long: "Have a certificate request (PKCS #10) signed and print the certificate, PEM. Its names are\n" +
			"the request's subject alternative names, each of which profile and rule must allow; the\n" +
			"common name and other extensions are passed over. Whoever gives an --idempotency-key may\n" +
			"ask again, if no answer came, without a second certificate.",
		Example: "  chancery --dir dev sign csr --authority devices --profile tls --csr lamp.csr --out lamp.crt",
		Args:    noArgs,
	}
	c.Flags().StringVar(&authority, "authority", "", "who issues")
	c.Flags().StringVar(&profile, "profile", "", "what kind of certificate")
	c.Flags().StringVar(&file, "csr", "", "certificate request, a PEM file, or - for standard input")
	c.Flags().Var(seconds{&ttl}, "ttl", "how long the certificate lives, such as 3600 or 1h (default: the profile's)")
	c.Flags().StringVar(&idempotencyKey, "idempotency-key", "", "the same key with the same request gets the same certificate for 24 h")
	c.Flags().StringVar(&out, "out", "", "write to this file instead of standard output")
	c.Flags().BoolVar(&chain, "chain", false, "also print the certificates above it")
	required(c, "authority", "profile", "csr")
	c.RunE = does(func(ctx context.Context, _ []string) error {
		source := "@" + file
		if file == "-" {
			source = file
		}
		pem, err := a.input(ctx, source)
		if err != nil {
			return err
		}
		client, err := a.connect(roleCA)
		if err != nil {
			return err
		}
		reply, err := client.SignCSR(ctx, api.SignCSRRequest{
			Authority: authority, Profile: profile, CSR: string(pem), TTL: wholeSeconds(c, ttl),
		}, idempotencyKey)
		if err != nil {
			return err
		}
		if a.json {
			return a.printReply()
		}
		text := lines(reply.Certificate)
		if chain {
			for _, above := range reply.Chain {
				text += lines(above)
			}
		}
		if out != "" {
			return os.WriteFile(out, []byte(text), 0o644)
		}
		_, err = io.WriteString(a.out, text)
		return err
	})
	return c
}

// lines returns PEM text, printable and ending in a newline.
func lines(pem string) string { return strings.TrimSuffix(cleanLines(pem), "\n") + "\n" }

// input returns what source names: a text itself, @FILE, or - for standard input.
func (a *app) input(ctx context.Context, source string) ([]byte, error) {
	path, isFile := strings.CutPrefix(source, "@")
	var data []byte
	var err error
	switch {
	case isFile:
		data, err = readFile(ctx, path, maxInput)
	case source == "-":
		data, err = a.readAll(ctx, source, maxInput)
	default:
		return []byte(source), nil
	}
	if err != nil {
		return nil, err
	}
	return []byte(strings.TrimRight(string(data), "\r\n")), nil
}

// required marks flags without which a command is used wrongly.
func required(c *cobra.Command, names ...string) {
	for _, name := range names {
		if err := c.MarkFlagRequired(name); err != nil {
			panic(err) // no such flag: a mistake above
		}
	}
}
