package store_test

import (
	"context"
	"errors"
	"fmt"

	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/storetest"
)

// The address of a store names its kind and its place.
func ExampleParseURL() {
	u, err := store.ParseURL("--store", "file:///var/lib/inject/secrets.db", store.SchemeFile, store.SchemeDir)
	fmt.Println(u.Scheme, u.Path, err)

	_, err = store.ParseURL("--store", "secrets.db", store.SchemeFile, store.SchemeDir)
	fmt.Println(err)
	fmt.Println("hint:", secret.Hint(err))
	// Output:
	// file /var/lib/inject/secrets.db <nil>
	// invalid: --store is not a URL
	// hint: a file is file:///path/to/secrets.db, a mounted folder dir:///path/to/folder
}

// A store knows a secret at exactly one scope: the same key at a narrower one is another secret.
func ExampleStore() {
	ctx := context.Background()
	s := storetest.Memory()
	org := secret.Ref{Scope: secret.Scope{Org: "acme"}, Key: "API_KEY"}
	project := secret.Ref{Scope: secret.Scope{Org: "acme", Domain: "development", Project: "search"}, Key: "API_KEY"}

	if err := s.Create(ctx, org, secret.NewValue([]byte("the org's")), store.Regular); err != nil {
		fmt.Println(err)
	}
	v, _, err := s.Get(ctx, org)
	fmt.Println(v, string(v.Reveal()), err)

	_, _, err = s.Get(ctx, project)
	fmt.Println(errors.Is(err, secret.ErrNotFound))
	// Output:
	// [REDACTED] the org's <nil>
	// true
}

// All reads one page after the other. A filter selects a scope and those inside it.
func ExampleAll() {
	ctx := context.Background()
	s := storetest.Memory()
	for _, ref := range []secret.Ref{
		{Scope: secret.Scope{Org: "acme"}, Key: "API_KEY"},
		{Scope: secret.Scope{Org: "acme", Domain: "production"}, Key: "DB_PASSWORD"},
		{Scope: secret.Scope{Org: "acme", Domain: "production", Project: "search"}, Key: "INDEX_TOKEN"},
	} {
		if err := s.Create(ctx, ref, secret.NewValue([]byte("value")), store.Regular); err != nil {
			fmt.Println(err)
		}
	}
	for info, err := range store.All(ctx, s, store.Filter{Domain: "production"}) {
		fmt.Println(info.Ref.Key, info.Type, err)
	}
	// Unordered output:
	// DB_PASSWORD regular <nil>
	// INDEX_TOKEN regular <nil>
}
