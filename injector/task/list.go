package task

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"inject/resolver/secret"
)

// list is a declared list while it is read.
type list struct {
	declared []secret.Declaration
	seen     map[secret.Declaration]bool
	errs     []error
}

// add adds d unless the list has it already: Flyte lists a secret once for each place that asks
// for it, and reads it once. If err is not nil, add records it with where, the name of d's place.
func (l *list) add(where string, d secret.Declaration, err error) {
	switch {
	case err != nil:
		l.errs = append(l.errs, fmt.Errorf("%s: %w", where, err))
	case !l.seen[d]:
		if l.seen == nil {
			l.seen = map[secret.Declaration]bool{}
		}
		l.declared, l.seen[d] = append(l.declared, d), true
	}
}

// maxErrors is how many mistakes of one source are reported.
const maxErrors = 20

// joinSome joins the first maxErrors of errs, and says how many more there are.
func joinSome(errs []error) error {
	if len(errs) > maxErrors {
		more := fmt.Errorf("%w: there are %d more mistakes", secret.ErrInvalid, len(errs)-maxErrors)
		errs = append(errs[:maxErrors:maxErrors], more)
	}
	return errors.Join(errs...)
}

// unknownNumbers returns the numbers of those fields of m that its type does not have, or has
// with another wire type.
func unknownNumbers(m proto.Message) []protoreflect.FieldNumber {
	return numbers(m.ProtoReflect().GetUnknown())
}
