#!/bin/sh
# Shows the main use: creates secrets in a temporary home, and runs commands with them.
# Prints each command and its output. Needs bin/inject (make build).
set -eu
cd "$(dirname "$0")"
PATH=$PWD/bin:$PATH
HOME=$(mktemp -d)
export HOME
trap 'rm -rf "$HOME"' EXIT
unset XDG_DATA_HOME XDG_CONFIG_HOME
# Ignore variables of inject that are set outside.
for v in $(env | sed -n 's/^\(INJECTD\{0,1\}_[A-Z_]*\)=.*/\1/p'); do unset "$v"; done

show() {
	printf '\n$'
	for word; do
		case $word in
		*[!-a-zA-Z0-9_./=]*) printf " '%s'" "$word" ;;
		*) printf ' %s' "$word" ;;
		esac
	done
	echo
	"$@"
}

echo '# A secret for the whole org, and another value for one project and domain'
show inject create secret MY_SECRET_KEY my_secret_value
show inject create secret --project my_project --domain development MY_SECRET_KEY other_value
show inject get secret

printf '\n# A command that declares the secret gets the value, and its output is masked\n'
# shellcheck disable=SC2016 # the task expands the variables, not this script
show inject --secret MY_SECRET_KEY=MY_SECRET_ENV_VAR -- sh -c 'echo "the secret is $MY_SECRET_ENV_VAR"'

printf '\n# The same command in the project gets the value of the project: the narrowest scope wins\n'
# shellcheck disable=SC2016 # as above
show inject --project my_project --domain development --secret MY_SECRET_KEY -- sh -c 'test "$MY_SECRET_KEY" = other_value && echo "it has the value of my_project"'
show inject explain --project my_project --domain development --secret MY_SECRET_KEY

printf '\n# The secret as a file, which is removed when the command ends\n'
# shellcheck disable=SC2016 # as above
show inject --secret-file MY_SECRET_KEY --files-dir "$HOME/secrets" -- sh -c 'wc -c < ~/secrets/MY_SECRET_KEY'

printf '\n# If a secret is missing, the error names it and the command does not start\n'
show inject --secret MY_SECRET_KEY --secret NO_SUCH_KEY -- echo started || echo "(exit code $?)"

show inject delete secret MY_SECRET_KEY
