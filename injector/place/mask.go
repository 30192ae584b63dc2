package place

import (
	"fmt"

	"github.com/hashicorp/go-hclog"

	"inject/exec/redact"
	"inject/resolver/secret"
)

// Mask makes r mask the values of secrets and the patterns in more. It logs a warning with the
// names of those that r does not mask: a value that is very short or blank equals much of what a
// task writes anyway, and masking it would garble the output.
func Mask(r *redact.Redactor, secrets []Secret, log hclog.Logger, more ...redact.Pattern) error {
	for _, s := range secrets {
		more = append(more, redact.Pattern{Name: s.Declaration.Key, Value: s.Value.Reveal()})
	}
	if err := r.Add(more...); err != nil {
		return fmt.Errorf("%w: %w", secret.ErrInvalid, err)
	}
	if unmasked := r.Unmasked(); len(unmasked) > 0 {
		log.Warn("too short or blank, so not masked: equal text in the output would be masked, too"+
			" (--redact-min-length)", "secrets", unmasked)
	}
	return nil
}
