#!/bin/sh
# Runs the main job with bin/inject on a store of its own, in a temporary home,
# and shows each command and what it prints. Needs nothing but a shell.
set -eu
cd "$(dirname "$0")"
PATH=$PWD/bin:$PATH
HOME=$(mktemp -d)
export HOME
trap 'rm -rf "$HOME"' EXIT
unset XDG_DATA_HOME XDG_CONFIG_HOME
# Whatever of ours is set outside does not belong to this tour.
for v in $(env | sed -n 's/^\(INJECT_[A-Z_]*\)=.*/\1/p'); do unset "$v"; done

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

echo '# A secret for the whole org, and another value of it for one project and domain'
show inject create secret MY_SECRET_KEY my_secret_value
show inject create secret --project my_project --domain development MY_SECRET_KEY other_value
show inject get secret

printf '\n# A task that declares it gets the value, and what it prints is masked\n'
# shellcheck disable=SC2016 # the task's variables, not ours
show inject --secret MY_SECRET_KEY=MY_SECRET_ENV_VAR -- sh -c 'echo "the secret is $MY_SECRET_ENV_VAR"'

printf '\n# The same in the project: the narrowest scope wins\n'
# shellcheck disable=SC2016 # as above
show inject --project my_project --domain development --secret MY_SECRET_KEY -- sh -c 'test "$MY_SECRET_KEY" = other_value && echo "it has the value of my_project"'
show inject explain --project my_project --domain development --secret MY_SECRET_KEY

printf '\n# As a file that is gone when the task has ended\n'
# shellcheck disable=SC2016 # as above
show inject --secret-file MY_SECRET_KEY --files-dir "$HOME/secrets" -- sh -c 'wc -c < ~/secrets/MY_SECRET_KEY'

printf '\n# What is missing is named, and nothing starts\n'
show inject --secret MY_SECRET_KEY --secret NO_SUCH_KEY -- echo started || echo "(exit code $?)"

show inject delete secret MY_SECRET_KEY
