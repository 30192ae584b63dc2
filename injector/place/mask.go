package place

import (
	"fmt"

	"github.com/hashicorp/go-hclog"

	"inject/exec/redact"
	"inject/resolver/secret"
)

// Mask makes r mask the values of secrets and the patterns in more. It logs warnings with the
// names of those that r does not mask, because a value that is very short or blank equals much of
// what a task writes anyway, and masking it would garble the output; of those that garble it all
// the same; and of those that r masks in some of their forms only.
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
	if common := r.Common(); len(common) > 0 {
		log.Warn("a word that many logs have in them: it is masked wherever it stands", "secrets", common)
	}
	if reduced := r.Reduced(); len(reduced) > 0 {
		log.Warn("too large to be masked in all forms in which programs write it: as it is, it is masked",
			"secrets", reduced)
	}
	return nil
}
