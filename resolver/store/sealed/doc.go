// Package sealed is the store in one encrypted file: the store of a laptop, and the one that a
// server of a data plane keeps. It does not decide who may read a secret: a process that
// has the file and its key can read all of them.
//
// It has more than 1,500 lines because it is everything that is done with the file: opening and
// locking it, keys, reads and changes, backups, verification. Two parts that need none of this are
// packages: index, the tree of names, and page, which reads the pages of bbolt.
//
// # The file
//
// It is a bbolt database with one bucket, "inject":
//
//	"format"   the version of this layout, 4 bytes, big-endian
//	"key"      the data key as an age file, so that any age identity can protect it
//	"padding"  zeros, which make the bucket large enough to have pages of its own
//	"i"+PREFIX a node of the index, sealed
//	"r"+HASH   a record: 2 bytes length, sealed info, sealed value
//
// Everything sealed is a 24-byte random nonce and an XChaCha20-Poly1305 ciphertext under a key
// derived from the data key. HASH is a keyed hash (HMAC-SHA256) of the secret's id, so the file
// reveals neither names nor scopes. It does reveal how many secrets there are, how long each is, and
// by the places of nodes roughly how many secrets each scope of more than a hundred has.
//
// # The index
//
// The name of a secret in the index is three keyed hashes of 8 bytes, of its org, of its project in
// the org and of its domain in the org, and then HASH. So the secrets of an org, of a project and of
// a scope are together, and a list reads the nodes and records of its page, at any size of the
// store. For a list of a domain in all projects each scope that has secrets has a mark, an entry
// without a record in the order of domains. Inner nodes have the number and the length of the values
// below each child, so that a change knows what the secrets of its scope take, which is what limits
// are compared with: see [Store.WithLimit].
//
// # Format 1
//
// The index of format 1 knows HASH alone: its nodes have keys "n"+PREFIX, and a list reads every
// secret of the store. A file of format 1 is read as it is. The first change makes the new index and
// leaves the records as they are. The new index is written beside the old one, and one transaction
// puts it in force. Before that transaction the file is whole in format 1, after it in format 2. A
// binary that knows format 1 alone refuses format 2:
// "format 2 of the store is unknown". A format 1 file with a damaged secret can be read and not be
// changed, because the scope of the secret is not known.
//
// # Damage never reads as absence
//
// If a damaged secret at a narrow scope read as "not found", the task would get the value of a
// wider scope. So the index is a tree in which every node vouches for the nodes below it: see
// package index. The version of a node or record is the id of the transaction that wrote it. It is
// part of the associated data of every sealed part, so an old copy of a page, which bbolt leaves in
// the file, does not open in place of the current one. A lookup thus proves a hit and a miss
// alike. The version of the root is the current transaction of the database itself. It is in
// bbolt's two meta pages, and both must have a correct checksum, because bbolt alone would
// silently fall back to the older one.
//
// Two things cannot be detected: that the whole file was replaced by an older copy of itself (for
// the last transaction alone, an old meta page is enough), and that it was removed. A store in one
// file has no other place to remember its state.
//
// Nor is a forged file detected. age encrypts for a recipient and does not say by whom, so a user
// who can write the file and knows the public key of the identity, which key files have in a
// comment, can put a store of their own in its place, with a data key wrapped for that identity.
// Its values are then believed. What is sealed is authenticated against changes without the data
// key, and not against such a replacement. A passphrase has no public key: it must be known to
// forge a store. Who may write the file is therefore as much a matter of trust as who may read
// the key.
//
// # Hostile files
//
// bbolt trusts the pages of its file. It maps the file, so reading a file that was cut is a fault.
// It descends by recursion, so pages that point back exhaust the stack. For this reason bbolt is
// used for writing only. Package page reads with plain reads and trusts nothing. That is also
// faster for a process that opens the store for a few lookups: mapping and unmapping a large file
// takes longer than they do.
//
// Nothing that was read is kept, so no answer is older than the call that returns it. A lookup
// among a million secrets takes about twice as long as one among a thousand (see
// BenchmarkMany).
//
// Before bbolt maps the file to change it, the length of the file is compared with what the meta
// pages need. Before bbolt follows a path of pages, package page walks that path. A fault or panic
// that happens nevertheless is reported as [secret.ErrCorrupt]. bbolt's cursors are not used: every
// access is by key, on a path that was walked.
//
// # Copies
//
// A backup is the file as a transaction left it: both meta pages, every page in use, and zeros in
// place of free pages, so that deleted secrets and data keys wrapped for an older key are not in
// it. bbolt's own copy keeps the free pages, and it writes the newer meta page first, which is the
// wrong place after every second transaction. Before pages are copied, all of them are surveyed:
// each must be in the tree once and not be listed as free, and its keys must be in order. Verify
// and Restore make the same survey, because damage that no lookup meets can still mislead a later
// write.
package sealed
