//! Reads the files that a configuration names: certificates, keys, tokens. Owns who may read a secret
//! (its owner alone) and how large a file may be. Never judges a certificate (`tls` does), never keeps a key's text.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use rustls_pki_types::pem::{Error as PemError, PemObject};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use super::check::Check;
use super::read::{At, Many, Written};
use super::snapshot::{IdentityFiles, KeyKind};
use super::value::FilePath;
use crate::tls::identity::{self, IdentityFaultKind};
use crate::tls::ticket;

/// Largest file that is read: the CA bundle of a whole distribution is a quarter of it.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A certificate that ends sooner is worth a word: automatic renewal comes at 30 days and has been failing by then.
const EXPIRY_NOTE_DAYS: i64 = 14;

/// Permission bits of group and others.
const NOT_THE_OWNER: u32 = 0o077;

impl Check<'_> {
    /// CA certificates of a PEM file, DER; empty when the key is absent.
    pub fn authorities(&mut self, file: &Written<FilePath>) -> Vec<Vec<u8>> {
        let Some((path, at)) = file.good() else { return Vec::new() };
        let certificates = self.blocks::<CertificateDer<'_>>(path, at, "CERTIFICATE");
        for (index, der) in certificates.iter().enumerate() {
            if webpki::anchor_from_trusted_cert(&CertificateDer::from(der.as_slice())).is_err() {
                let shown = self.path(path);
                let why =
                    format!("certificate {} of {} cannot be read", index + 1, shown.display());
                self.fault(at, why, "give the certificate of a CA (X.509 version 3)");
            }
        }
        self.in_time(path, at, &certificates);
        certificates
    }

    /// A bundle usually outlives some of its members; when all are out of date nobody can be vouched for.
    fn in_time(&mut self, path: &FilePath, at: &At, certificates: &[Vec<u8>]) {
        let ends = certificates.iter().filter_map(|der| {
            let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
            Some(certificate.validity().not_after.timestamp())
        });
        let ends: Vec<i64> = ends.collect();
        let over = ends.iter().filter(|end| **end < self.host.unix_time).count();
        let shown = self.path(path);
        let why =
            format!("{over} of {} certificates in {} are out of date", ends.len(), shown.display());
        if over > 0 && over == ends.len() {
            self.fault(at, why, "fetch a newer bundle, or check the clock of this host");
        } else if over > 0 {
            self.note(at, why, "fetch a newer bundle");
        }
    }

    /// Revocation lists of PEM files, DER.
    pub fn revocation_lists(&mut self, files: &Written<Many<FilePath>>) -> Vec<Vec<u8>> {
        let Some((Many(files), _)) = files.good() else { return Vec::new() };
        let mut lists = Vec::new();
        for (path, at) in files.iter().filter_map(Written::good) {
            for der in self.blocks::<CertificateRevocationListDer<'_>>(path, at, "X509 CRL") {
                if webpki::OwnedCertRevocationList::from_der(&der).is_err() {
                    let why = format!("{} holds no revocation list", self.path(path).display());
                    self.fault(
                        at,
                        why,
                        "give the list that the CA publishes (X.509 CRL version 2)",
                    );
                }
                lists.push(der);
            }
        }
        lists
    }

    /// The PEM blocks of one kind, DER, in the order of the file; never empty when there is no fault.
    fn blocks<T: PemObject + AsRef<[u8]>>(
        &mut self,
        path: &FilePath,
        at: &At,
        label: &str,
    ) -> Vec<Vec<u8>> {
        let path = self.path(path);
        let Some((bytes, _)) = self.read(at, &path) else { return Vec::new() };
        let parsed: Result<Vec<T>, _> = T::pem_slice_iter(&bytes).collect();
        let (why, cure) = match parsed {
            Ok(blocks) if blocks.is_empty() => (
                format!("{} holds no PEM block \"BEGIN {label}\"", path.display()),
                "DER is turned into PEM by: openssl x509 -inform DER (or openssl crl, openssl pkey)",
            ),
            Ok(blocks) => return blocks.iter().map(|der| der.as_ref().to_vec()).collect(),
            Err(error) => (format!("{}: {error}", path.display()), "give whole PEM text"),
        };
        self.fault(at, why, cure);
        Vec::new()
    }

    /// The private key of a PEM file that only its owner may read.
    fn key(&mut self, file: &Written<FilePath>) -> Option<(Zeroizing<Vec<u8>>, KeyKind)> {
        let (path, at) = file.good()?;
        let path = self.path(path);
        let bytes = self.secret(at, &path)?;
        match PrivateKeyDer::from_pem_slice(&bytes) {
            Ok(PrivateKeyDer::Pkcs8(key)) => {
                Some((key.secret_pkcs8_der().to_vec().into(), KeyKind::Pkcs8))
            }
            Ok(PrivateKeyDer::Pkcs1(key)) => {
                Some((key.secret_pkcs1_der().to_vec().into(), KeyKind::Pkcs1))
            }
            Ok(PrivateKeyDer::Sec1(key)) => {
                Some((key.secret_sec1_der().to_vec().into(), KeyKind::Sec1))
            }
            Err(PemError::NoItemsFound) if contains(&bytes, b"ENCRYPTED") => {
                let cure =
                    format!("decrypt it: openssl pkey -in {} -out plain.pem", path.display());
                self.fault(at, format!("the key in {} is encrypted", path.display()), cure);
                None
            }
            Ok(_) | Err(PemError::NoItemsFound) => {
                let why = format!("{} holds no private key", path.display());
                self.fault(at, why, "it must hold one PEM block \"BEGIN PRIVATE KEY\"");
                None
            }
            Err(error) => {
                self.fault(at, format!("{}: {error}", path.display()), "it must be whole PEM text");
                None
            }
        }
    }

    /// A certificate chain with its key, read and judged. `names` and its place: what it is chosen by.
    pub fn identity(
        &mut self,
        table: &At,
        (names, names_at): (Vec<Box<str>>, &At),
        (chain, key, ocsp): (&Written<FilePath>, &Written<FilePath>, &Written<FilePath>),
    ) -> Option<IdentityFiles> {
        self.required(chain, table, "chain", "\"fullchain.pem\"");
        self.required(key, table, "key", "\"key.pem\"");
        let certificates = match chain.good() {
            Some((path, at)) => self.blocks::<CertificateDer<'_>>(path, at, "CERTIFICATE"),
            None => Vec::new(),
        };
        let private = self.key(key);
        let ocsp = self.ocsp(ocsp);
        let ((path, chain_at), (key_path, key_at)) = (chain.good()?, key.good()?);
        let (key, key_kind) = private?;
        if certificates.is_empty() {
            return None;
        }
        let files = IdentityFiles {
            names,
            chain: certificates,
            key: Arc::new(key),
            key_kind,
            ocsp,
            chain_path: self.path(path),
        };
        self.judge(&files, &self.path(key_path), [chain_at, key_at, names_at]);
        Some(files)
    }

    /// What `tls` says of an identity, at the key that it is about.
    fn judge(
        &mut self,
        files: &IdentityFiles,
        key_path: &Path,
        [chain_at, key_at, names_at]: [&At; 3],
    ) {
        let now = u64::try_from(self.host.unix_time).unwrap_or(0);
        match identity::examine(files, now) {
            Err(faults) => {
                for mut fault in faults {
                    let at = match fault.kind {
                        IdentityFaultKind::KeyUnreadable | IdentityFaultKind::KeyMismatch => {
                            fault.path = key_path.to_owned();
                            key_at
                        }
                        IdentityFaultKind::NameNotCovered { .. } => names_at,
                        _ => chain_at,
                    };
                    self.fault(at, fault.to_string(), fault.cure());
                }
            }
            Ok(facts) => {
                let days = (facts.not_after - self.host.unix_time) / (24 * 3600);
                if days < EXPIRY_NOTE_DAYS {
                    let why = format!("{} ends in {days} days", files.chain_path.display());
                    self.note(chain_at, why, "renew it");
                }
            }
        }
    }

    fn ocsp(&mut self, file: &Written<FilePath>) -> Vec<u8> {
        let Some((path, at)) = file.good() else { return Vec::new() };
        let path = self.path(path);
        let Some((bytes, _)) = self.read(at, &path) else { return Vec::new() };
        // RFC 6960 4.2.1: an OCSPResponse is one DER sequence and nothing after it.
        match x509_parser::asn1_rs::Sequence::from_der(&bytes) {
            Ok(([], _)) => bytes.to_vec(),
            _ => {
                let why = format!("{} is no OCSP response in DER", path.display());
                self.fault(at, why, "write it with: openssl ocsp ... -respout ocsp.der");
                Vec::new()
            }
        }
    }

    /// The text of a file of ticket keys, which is good.
    pub fn ticket_keys(&mut self, file: &Written<FilePath>) -> Option<Zeroizing<Vec<u8>>> {
        let (path, at) = file.good()?;
        let path = self.path(path);
        let bytes = self.secret(at, &path)?;
        match ticket::examine(&bytes) {
            Ok(()) => Some(bytes),
            Err(fault) => {
                self.fault(at, format!("{}: {fault}", path.display()), fault.cure());
                None
            }
        }
    }

    /// The bytes of a file that only its owner may read.
    pub fn secret(&mut self, at: &At, path: &Path) -> Option<Zeroizing<Vec<u8>>> {
        let (bytes, metadata) = self.read(at, path)?;
        let shown = path.display();
        let before = self.faults();
        if metadata.mode() & NOT_THE_OWNER != 0 {
            let why = format!(
                "{shown} has mode {:04o}: others than its owner may use it",
                metadata.mode() & 0o7777
            );
            self.fault(at, why, format!("run: chmod 600 {shown}"));
        }
        // root reads everything anyway, so a secret of root's is no secret lost.
        if metadata.uid() != self.host.user && metadata.uid() != 0 {
            let why = format!(
                "{shown} belongs to user {}, this process runs as user {}",
                metadata.uid(),
                self.host.user
            );
            self.fault(at, why, format!("run: chown {} {shown}", self.host.user));
        }
        (self.faults() == before).then_some(bytes)
    }

    /// The whole of a regular file.
    fn read(&mut self, at: &At, path: &Path) -> Option<(Zeroizing<Vec<u8>>, Metadata)> {
        self.files.push(path.to_owned());
        match read_whole(path) {
            Ok(read) => Some(read),
            Err(error) => {
                let cure = match error.kind() {
                    std::io::ErrorKind::NotFound => {
                        "correct the path; a relative one starts at the directory of the configuration file"
                    }
                    std::io::ErrorKind::PermissionDenied => {
                        "let this user read it, and enter its directory"
                    }
                    _ => "give a regular file of at most 1 MiB",
                };
                self.fault(at, format!("cannot read {}: {error}", path.display()), cure);
                None
            }
        }
    }
}

fn read_whole(path: &Path) -> std::io::Result<(Zeroizing<Vec<u8>>, Metadata)> {
    // Asked before opening: opening a FIFO would wait for its writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.len() > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("it has {} bytes", metadata.len())));
    }
    let mut bytes =
        Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0)));
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok((bytes, metadata))
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    memchr::memmem::find(bytes, word).is_some()
}
