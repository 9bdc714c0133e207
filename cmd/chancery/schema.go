package main

import (
	"context"

	"github.com/spf13/cobra"

	"chancery/keystore/audit"
)

func (a *app) auditSchemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of an entry",
		Long: "Print the JSON Schema (draft 2020-12) of an entry: every member, action and outcome of\n" +
			"this version, what each means, and what the entries of an action carry.",
		Example: "  chancery audit schema >entry.schema.json",
		Args:    noArgs,
		RunE: does(func(context.Context, []string) error {
			_, err := a.out.Write(audit.EntrySchema())
			return err
		}),
	}
}
