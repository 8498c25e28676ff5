//! TLS over bytes in memory: both ends of `tls::session`, and a hostile client that makes its own records.

#[path = "tls/handshakes.rs"]
mod handshakes;
#[path = "tls/hostile.rs"]
mod hostile;
#[path = "tls/identities.rs"]
mod identities;
#[path = "tls/mutations.rs"]
mod mutations;
#[path = "tls/peers.rs"]
mod peers;
#[path = "tls/pki.rs"]
mod pki;
#[path = "tls/records.rs"]
mod records;
#[path = "tls/resumption.rs"]
mod resumption;
#[path = "tls/wire.rs"]
mod wire;
