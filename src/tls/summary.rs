//! What a handshake agreed on, in closed words for metrics and logs.
//! Owns no text of a peer.

use super::fault::{FaultKind, names};

names! {
    Version {
        Tls12 = "1.2",
        Tls13 = "1.3",
    }
}

names! {
    /// How the keys were agreed.
    KeyExchange {
        X25519MlKem768 = "X25519MLKEM768",
        X25519 = "X25519",
        P256 = "P-256",
        P384 = "P-384",
        /// None: a session of TLS 1.2 that was resumed.
        Resumed = "none",
        /// Of another provider: the simulator's.
        Other = "other",
    }
}

names! {
    Suite {
        Aes128GcmSha256 = "TLS_AES_128_GCM_SHA256",
        Aes256GcmSha384 = "TLS_AES_256_GCM_SHA384",
        Chacha20Poly1305Sha256 = "TLS_CHACHA20_POLY1305_SHA256",
        EcdheEcdsaAes128GcmSha256 = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        EcdheEcdsaAes256GcmSha384 = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        EcdheEcdsaChacha20Poly1305Sha256 = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        EcdheRsaAes128GcmSha256 = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        EcdheRsaAes256GcmSha384 = "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        EcdheRsaChacha20Poly1305Sha256 = "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        /// Of another provider: the simulator's.
        Other = "other",
    }
}

/// What a handshake agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    pub version: Version,
    pub key_exchange: KeyExchange,
    pub suite: Suite,
    pub resumed: bool,
    /// ALPN `sip/2` was agreed on.
    pub alpn: bool,
    /// The client named a server (SNI).
    pub sni: bool,
    /// The peer showed a certificate that was found good.
    pub authenticated: bool,
    /// Zone policy `report`: why the client would have been refused.
    pub would_refuse: Option<FaultKind>,
}
