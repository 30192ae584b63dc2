package main

import "inject/cli"

// terminal returns where a person can be asked, nil if nowhere.
func (a *app) terminal() *cli.Terminal { return cli.OpenTerminal(a.stdin, a.stopped) }
