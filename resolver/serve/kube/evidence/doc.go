// Package evidence tells whether the admission policies of the chart vouch for the pods of a
// namespace: whether each policy and its binding exist, have never been changed, refuse, select the
// namespace, and since when. It also tells what around them leaves pods unprotected all the same
// ([Report.Gaps]).
//
// [Load] reads which policies there should be. [Reader.Read] compares them with the cluster's, and
// returns a [Report]; docs/reference/admission.md says what their names prove. It calls the API
// server, changes nothing, and knows nothing of pods and tokens.
package evidence
