package resolver_test

import (
	"context"
	"fmt"

	"inject/resolver"
	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/storetest"
)

// A secret of the project hides the one of the same name that the whole org shares.
func ExampleOver() {
	ctx := context.Background()
	s := storetest.Memory() // or any other store
	org, project := secret.Scope{Org: "flyte"}, secret.Scope{Org: "flyte", Project: "fraud"}
	for scope, value := range map[secret.Scope]string{org: "shared", project: "ours"} {
		ref := secret.Ref{Scope: scope, Key: "API_KEY"}
		if err := s.Create(ctx, ref, secret.NewValue([]byte(value)), store.Regular); err != nil {
			fmt.Println(err)
		}
	}

	task := secret.Scope{Org: "flyte", Project: "fraud", Domain: "production"}
	resolved, err := resolver.Over(s).Resolve(ctx, task, []secret.Declaration{{Key: "API_KEY"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(resolved[0].Info.Ref)
	// Output: API_KEY at project fraud
}
