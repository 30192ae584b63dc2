package cli

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"inject/resolver/secret"
)

// AddVerbs gives root the verbs that every program has: help, and completion, which prints a script
// for a shell. Cobra's own take any mistake for a wish to see the help, and end with 0.
func AddVerbs(root *cobra.Command) {
	root.CompletionOptions.DisableDefaultCmd = true
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	root.SetHelpCommand(helpCommand(root))
	root.AddCommand(completionCommand(root))
}

func helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [VERB…]",
		Short: "Show the help of a verb",
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 || cmd == root && len(args) > 0 {
				return secret.WithHint(fmt.Errorf("%w: there is no such verb", secret.ErrInvalid),
					"%s --help lists the verbs", root.Name())
			}
			return cmd.Help()
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			var names []string
			if cmd, rest, err := root.Find(args); err == nil && len(rest) == 0 {
				for _, sub := range cmd.Commands() {
					if sub.IsAvailableCommand() {
						names = append(names, sub.Name()+"\t"+sub.Short)
					}
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
}

// bashWords gives a bash without the package bash-completion the one function of it that cobra's script
// needs.
const bashWords = `if ! declare -F _get_comp_words_by_ref > /dev/null; then
    _get_comp_words_by_ref() {
        words=("${COMP_WORDS[@]}") cword=$COMP_CWORD
        cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    }
fi
`

// shells are those for which completion prints a script.
var shells = []string{"bash", "zsh", "fish"}

func completionCommand(root *cobra.Command) *cobra.Command {
	name := root.Name()
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print a script that completes command lines in a shell",
		Long: "completion prints a script that completes command lines of " + name + " in a shell, once the shell " +
			"has read it. make install puts the scripts where bash-completion, zsh and fish look for them.",
		Example: "  source <(" + name + " completion bash)\n" +
			"  source <(" + name + " completion zsh)       # after compinit\n" +
			"  " + name + " completion fish | source",
		ValidArgs: shells,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 && slices.Contains(shells, args[0]) {
				return nil
			}
			return secret.WithHint(fmt.Errorf("%w: completion is for bash, zsh or fish", secret.ErrInvalid),
				"%s completion bash", name)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			out := cmd.OutOrStdout()
			switch args[0] {
			case "bash":
				_, err := io.WriteString(out, bashWords)
				return errors.Join(err, root.GenBashCompletionV2(out, true))
			case "zsh":
				return root.GenZshCompletion(out)
			case "fish":
				return root.GenFishCompletion(out, true)
			}
			return errors.ErrUnsupported // Args has refused all others
		},
	}
}
