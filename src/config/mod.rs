//! What the operator wrote (`file`), what is wrong with it (`check`), and what is settled (`snapshot`).

pub mod snapshot;
