package main

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"chancery/cmd/internal/manual"
	"chancery/keystore"
)

// completions has the shell offer what each flag may be: the values there are,
// files, or nothing.
func completions(root *cobra.Command) {
	for _, c := range manual.Commands(root)[1:] {
		c.ValidArgsFunction = cobra.NoFileCompletions
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			values := valuesOf(f.Name)
			if f.NoOptDefVal != "" || values == nil {
				return // takes no value, or a file
			}
			if err := c.RegisterFlagCompletionFunc(f.Name, values); err != nil {
				panic(err) // a flag has two: a mistake here
			}
		})
	}
}

// valuesOf returns what a flag may be; nil: a file.
func valuesOf(flag string) cobra.CompletionFunc {
	switch flag {
	case "config":
		return only(cobra.ShellCompDirectiveFilterFileExt, "yaml", "yml")
	case "dir", "join":
		return only(cobra.ShellCompDirectiveFilterDirs)
	case "algorithms":
		var names []string
		for _, alg := range keystore.Algorithms() {
			names = append(names, string(alg))
		}
		return only(cobra.ShellCompDirectiveNoFileComp, names...)
	}
	if flag == "module" || strings.HasSuffix(flag, "-file") || strings.HasSuffix(flag, "-ca") {
		return nil
	}
	return cobra.NoFileCompletions
}

func only(directive cobra.ShellCompDirective, values ...string) cobra.CompletionFunc {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) { return values, directive }
}
