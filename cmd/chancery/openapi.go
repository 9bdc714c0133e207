package main

import (
	"context"

	"github.com/spf13/cobra"

	"chancery/signer/api"
)

func (a *app) openAPICommand() *cobra.Command {
	return &cobra.Command{
		Use:   "openapi",
		Short: "Print the description of the HTTP interface, in OpenAPI 3.1",
		Long: "Print the OpenAPI 3.1 document of the daemon's JSON side, in JSON: every operation of the\n" +
			"signing and the ops door and what the public door publishes as JSON, with schemas,\n" +
			"problem codes, limits and examples. It is this release's; a daemon serves its own at\n" +
			"/v1/openapi.json, to whoever has a certificate that it knows.",
		Example: "  chancery openapi >chancery.openapi.json",
		Args:    noArgs,
		RunE: does(func(context.Context, []string) error {
			_, err := a.out.Write(api.OpenAPI())
			return err
		}),
	}
}
