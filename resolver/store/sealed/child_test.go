package sealed_test

func runChild() { runPlugin() }
