package secret_test

import (
	"fmt"

	"inject/resolver/secret"
)

// A task reads the secrets of the scopes on its ladder, the narrowest first.
func ExampleScope_Ladder() {
	task := secret.Scope{Org: secret.DefaultOrg, Project: "fraud", Domain: "production"}
	for _, scope := range task.Ladder() {
		fmt.Println(scope)
	}
	// Output:
	// project fraud, domain production
	// project fraud
	// domain production
	// org flyte
}

// A value is not shown by any way of printing it; only Reveal returns it.
func ExampleValue() {
	v := secret.NewValue([]byte("hunter2"))
	fmt.Printf("%v %q %d bytes\n", v, v, v.Len())
	fmt.Println(string(v.Reveal()))
	// Output:
	// [REDACTED] [REDACTED] 7 bytes
	// hunter2
}

// Stores wrap a sentinel, and callers ask for it or for its kind.
func ExampleKindOf() {
	err := &secret.Error{
		Op:  "get",
		Ref: secret.Ref{Scope: secret.Scope{Org: secret.DefaultOrg, Project: "fraud"}, Key: "API_KEY"},
		Err: secret.WithHint(secret.ErrDenied, "ask the owner of the project"),
	}
	fmt.Println(err)
	fmt.Println("hint:", secret.Hint(err))
	fmt.Println("kind:", secret.KindOf(err))
	// Output:
	// get API_KEY at project fraud: access denied
	// hint: ask the owner of the project
	// kind: denied
}

// A declaration without a variable gets the two that Flyte gives it.
func ExampleDeclaration_EnvVars() {
	d := secret.Declaration{Group: "aws", Key: "s3-token"}
	fmt.Println(d.EnvVars(), d.Validate())
	// Output: [AWS_S3_TOKEN _UNION_S3-TOKEN] <nil>
}
