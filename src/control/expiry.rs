//! When our own certificates end: for the metric, and said in the log 30, 7 and 1 days before, and when it is over.
//! Owns which of these words have been said. Never judges a certificate: one that has ended goes on being shown, since
//! a peer that refuses it tells more than a listener that is gone.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::proxy::settings::Settings;
use crate::tls::identity;

const DAY: i64 = 24 * 60 * 60;

/// Days before the end at which a word is said; the last one is the end itself.
const DAYS: [i64; 4] = [30, 7, 1, 0];

/// One of our own certificates, where it is shown.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Certificate {
    /// `listener edge-tls` or `zone core`.
    pub place: String,
    pub chain: PathBuf,
    /// Seconds since 1970.
    pub not_after: i64,
}

/// The certificates in use, and how much has been said of each.
#[derive(Default)]
pub struct Expiry {
    certificates: Vec<Certificate>,
    /// How many of `DAYS` have been said.
    said: BTreeMap<Certificate, usize>,
}

impl Expiry {
    /// Takes over what is shown from now on. What has been said of a certificate that stays is not said again.
    pub fn configure(&mut self, settings: &Settings, now: i64) {
        let snapshot = &settings.snapshot;
        let mut certificates = Vec::new();
        for (listener, side) in snapshot.listeners.iter().zip(&settings.server_sides) {
            for facts in side.iter().flat_map(|side| side.identities()) {
                certificates.push(Certificate {
                    place: format!("listener {}", listener.name),
                    chain: facts.chain_path.clone(),
                    not_after: facts.not_after,
                });
            }
        }
        for zone in &snapshot.zones {
            let Some(files) = &zone.certificate else { continue };
            // It was good when the settings were built; a moment later it may have ended.
            if let Ok(facts) = identity::examine(files, now.try_into().unwrap_or(0)) {
                certificates.push(Certificate {
                    place: format!("zone {}", zone.name),
                    chain: facts.chain_path,
                    not_after: facts.not_after,
                });
            }
        }
        self.take_over(certificates, now);
    }

    fn take_over(&mut self, mut certificates: Vec<Certificate>, now: i64) {
        // A listener with several addresses shows the same at each.
        certificates.sort();
        certificates.dedup();
        self.said.retain(|certificate, _| certificates.contains(certificate));
        self.certificates = certificates;
        self.look(now);
    }

    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// Says what is due.
    pub fn look(&mut self, now: i64) {
        for (certificate, days) in self.due(now) {
            let (place, chain) = (&certificate.place, certificate.chain.display());
            if days == 0 {
                tracing::error!(place, %chain, "a certificate has ended: peers refuse it");
            } else {
                let left = (certificate.not_after - now) / DAY;
                tracing::warn!(place, %chain, days = left, "a certificate ends soon: renew it");
            }
        }
    }

    /// Each certificate that has come below a mark since the last call, with the lowest such mark in days.
    fn due(&mut self, now: i64) -> Vec<(Certificate, i64)> {
        let mut due = Vec::new();
        for certificate in &self.certificates {
            let passed =
                DAYS.iter().filter(|days| certificate.not_after - now <= **days * DAY).count();
            let said = self.said.entry(certificate.clone()).or_default();
            if passed > *said {
                *said = passed;
                due.push((certificate.clone(), DAYS[passed - 1]));
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mark_is_told_once() {
        let now = 1_800_000_000;
        let certificate = |days: i64| Certificate {
            place: "listener edge-tls".to_owned(),
            chain: "chain.pem".into(),
            not_after: now + days * DAY,
        };
        let mut expiry = Expiry::default();
        expiry.take_over(vec![certificate(90), certificate(90)], now);
        assert_eq!(expiry.certificates().len(), 1);
        let told = |expiry: &mut Expiry, day: i64| {
            expiry.due(now + day * DAY).into_iter().map(|(_, days)| days).collect::<Vec<_>>()
        };
        let mut marks = Vec::new();
        for day in 0..100 {
            marks.extend(told(&mut expiry, day).into_iter().map(|mark| (day, mark)));
        }
        assert_eq!(marks, [(60, 30), (83, 7), (89, 1), (90, 0)]);
        // A process that starts late says the one word that counts.
        let mut late = Expiry { certificates: vec![certificate(3)], said: BTreeMap::new() };
        assert_eq!(told(&mut late, 0), [7]);
        // A renewed one begins anew, one that stays does not.
        expiry.take_over(vec![certificate(90), certificate(91)], now + 90 * DAY);
        assert!(told(&mut expiry, 90).is_empty());
        assert_eq!(told(&mut expiry, 91), [0]);
    }
}
