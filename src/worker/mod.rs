//! The turn: one Machine on one Ring; mailboxes; the life of a worker.
#![forbid(unsafe_code)]
