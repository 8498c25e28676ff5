//! One TLS connection over the caller's bytes.
#![forbid(unsafe_code)]
