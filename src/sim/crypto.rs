//! Certificates of the made-up world: Ed25519 throughout, so that every flight of a handshake has the same length in
//! each run. Owns identities and the one CA behind them. Never random.
//!
//! The true provider works in the swarm: with Ed25519 signatures (of one length, RFC 8032) and X25519 keys no record's
//! length depends on chance, so a seed gives the same events each time although its ciphertext differs.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa};
use rcgen::{KeyPair, KeyUsagePurpose, SerialNumber};

use crate::config::snapshot::{IdentityFiles, KeyKind};

/// The wall clock at the beginning of every run: 2026-01-01.
pub const BEGIN: u64 = 1_767_225_600;

/// PKCS#8 of an Ed25519 key whose 32 secret bytes are all `byte` (RFC 8410 7). Worth nothing outside this world.
fn key(byte: u8) -> Vec<u8> {
    let mut der = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    der.extend_from_slice(&[byte; 32]);
    der
}

fn key_pair(byte: u8) -> KeyPair {
    let der = rustls_pki_types::PrivatePkcs8KeyDer::from(key(byte));
    KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ED25519).expect("a key of one form")
}

/// What somebody shows, and whom everybody trusts.
#[derive(Clone)]
pub struct Identity {
    pub files: IdentityFiles,
    pub authority: Vec<u8>,
}

impl Identity {
    /// A certificate for all `names`; one CA stands behind every one of them.
    pub fn new(names: &[&str]) -> Identity {
        let issuer = rcgen::CertifiedIssuer::self_signed(authority(), key_pair(1)).expect("a CA");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names of DNS form");
        params.distinguished_name.push(DnType::CommonName, "somebody");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(SerialNumber::from(2u64));
        last_long(&mut params);
        let leaf = params.signed_by(&key_pair(2), &issuer).expect("a leaf");
        Identity {
            files: IdentityFiles {
                names: Vec::new(),
                chain: vec![leaf.der().to_vec(), issuer.der().to_vec()],
                key: Arc::new(zeroize::Zeroizing::new(key(2))),
                key_kind: KeyKind::Pkcs8,
                ocsp: Vec::new(),
                chain_path: PathBuf::from("(made up)"),
            },
            authority: issuer.der().to_vec(),
        }
    }
}

fn authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "CA of a made-up world");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.serial_number = Some(SerialNumber::from(1u64));
    last_long(&mut params);
    params
}

/// Longer than any run.
fn last_long(params: &mut CertificateParams) {
    params.not_before = rcgen::date_time_ymd(2025, 1, 1);
    params.not_after = rcgen::date_time_ymd(2045, 1, 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_certificate_each_time() {
        let (one, two) = (Identity::new(&["a.example"]), Identity::new(&["a.example"]));
        assert_eq!(one.files.chain, two.files.chain);
    }
}
