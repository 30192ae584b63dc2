package storetest_test

import (
	"testing"

	"inject/resolver/store"
	"inject/resolver/store/storetest"
)

func TestMemory(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return storetest.Memory() })
}
