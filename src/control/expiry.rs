//! When our own certificates, the CAs that we trust and the revocation lists end: for the metrics, and said in the log
//! before it happens and when it has.
//! Owns which of these words have been said. Never judges: what has ended goes on being used, as far as peers and rules
//! let it, since a peer that refuses it tells more than a listener that is gone.

use std::collections::BTreeMap;

use crate::proxy::settings::Settings;
use crate::tls::identity;

const DAY: i64 = 24 * 60 * 60;

/// Seconds before the end of a certificate at which a word is said; the last one is the end itself.
const CERTIFICATE_MARKS: [i64; 4] = [30 * DAY, 7 * DAY, DAY, 0];

/// What it is that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Certificate,
    /// A CA that may vouch for peers.
    Authority,
    RevocationList,
}

/// Something that ends, where it is used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ending {
    pub kind: Kind,
    /// `listener edge-tls`, `zone core`, `zone edge, client_ca`; empty for a revocation list.
    pub place: String,
    /// The chain's path; the subject of a CA; the issuer of a list.
    pub name: String,
    /// Seconds since 1970.
    pub not_after: i64,
    /// Seconds before the end at which a word is said, falling; the last one is the end itself.
    marks: Vec<i64>,
}

impl Ending {
    pub fn certificate(place: String, chain: String, not_after: i64) -> Ending {
        Ending {
            kind: Kind::Certificate,
            place,
            name: chain,
            not_after,
            marks: CERTIFICATE_MARKS.to_vec(),
        }
    }

    fn authority(place: &str, (subject, not_after): (String, i64)) -> Ending {
        let place = place.to_owned();
        let marks = CERTIFICATE_MARKS.to_vec();
        Ending { kind: Kind::Authority, place, name: subject, not_after, marks }
    }

    /// Lists live from hours to months: the word is said when a quarter of that is left, a day at most.
    fn list(issuer: String, made: i64, next: i64) -> Ending {
        let marks = vec![((next - made) / 4).clamp(0, DAY), 0];
        let place = String::new();
        Ending { kind: Kind::RevocationList, place, name: issuer, not_after: next, marks }
    }

    fn say(&self, mark: i64, now: i64) {
        let (place, name) = (&self.place, &self.name);
        let hours = (self.not_after - now) / 3600;
        let days = hours / 24;
        match (self.kind, mark) {
            (Kind::Certificate, 0) => {
                tracing::error!(place, chain = name, "a certificate has ended: peers refuse it");
            }
            (Kind::Certificate, _) => {
                tracing::warn!(place, chain = name, days, "a certificate ends soon: renew it");
            }
            (Kind::Authority, 0) => {
                tracing::error!(place, subject = name, "a trusted CA has ended: renew the bundle");
            }
            (Kind::Authority, _) => {
                tracing::warn!(place, subject = name, days, "a trusted CA ends soon");
            }
            (Kind::RevocationList, 0) => tracing::error!(
                issuer = name,
                "a revocation list has run out: who its issuer vouches for is refused"
            ),
            (Kind::RevocationList, _) => {
                tracing::warn!(issuer = name, hours, "a revocation list runs out soon");
            }
        }
    }
}

/// What is in use and ends, and how much has been said of each.
#[derive(Default)]
pub struct Expiry {
    endings: Vec<Ending>,
    /// How many of its marks have been said.
    said: BTreeMap<Ending, usize>,
}

impl Expiry {
    /// Takes over what is used from now on. What has been said of something that stays is not said again.
    pub fn configure(&mut self, settings: &Settings, now: i64) {
        let snapshot = &settings.snapshot;
        let mut endings = Vec::new();
        for (listener, side) in snapshot.listeners.iter().zip(&settings.server_sides) {
            for facts in side.iter().flat_map(|side| side.identities()) {
                let place = format!("listener {}", listener.name);
                let chain = facts.chain_path.display().to_string();
                endings.push(Ending::certificate(place, chain, facts.not_after));
            }
        }
        for zone in &snapshot.zones {
            for (key, bundle) in [("client_ca", &zone.client_ca), ("server_ca", &zone.server_ca)] {
                let place = format!("zone {}, {key}", zone.name);
                let facts = bundle.iter().filter_map(|der| identity::authority_end(der));
                endings.extend(facts.map(|facts| Ending::authority(&place, facts)));
            }
            let Some(files) = &zone.certificate else { continue };
            // It was good when the settings were built; a moment later it may have ended.
            if let Ok(facts) = identity::examine(files, now.try_into().unwrap_or(0)) {
                let chain = facts.chain_path.display().to_string();
                let place = format!("zone {}", zone.name);
                endings.push(Ending::certificate(place, chain, facts.not_after));
            }
        }
        let lists = snapshot.tls.crl.iter().filter_map(|der| identity::list_end(der));
        endings.extend(lists.map(|(issuer, made, next)| Ending::list(issuer, made, next)));
        self.take_over(endings, now);
    }

    fn take_over(&mut self, mut endings: Vec<Ending>, now: i64) {
        // A listener with several addresses shows the same at each.
        endings.sort();
        endings.dedup();
        self.said.retain(|ending, _| endings.contains(ending));
        self.endings = endings;
        self.look(now);
    }

    pub fn endings(&self) -> &[Ending] {
        &self.endings
    }

    /// Says what is due.
    pub fn look(&mut self, now: i64) {
        for (ending, mark) in self.due(now) {
            ending.say(mark, now);
        }
    }

    /// Each that has come below a mark since the last call, with the lowest such mark in seconds.
    fn due(&mut self, now: i64) -> Vec<(Ending, i64)> {
        let mut due = Vec::new();
        for ending in &self.endings {
            let left = ending.not_after - now;
            let passed = ending.marks.iter().filter(|mark| left <= **mark).count();
            let said = self.said.entry(ending.clone()).or_default();
            if passed > *said {
                *said = passed;
                due.push((ending.clone(), ending.marks[passed - 1]));
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn certificate(days: i64) -> Ending {
        let place = "listener edge-tls".to_owned();
        Ending::certificate(place, "chain.pem".to_owned(), NOW + days * DAY)
    }

    fn told(expiry: &mut Expiry, now: i64) -> Vec<i64> {
        expiry.due(now).into_iter().map(|(_, mark)| mark).collect()
    }

    #[test]
    fn each_mark_is_told_once() {
        let mut expiry = Expiry::default();
        expiry.take_over(vec![certificate(90), certificate(90)], NOW);
        assert_eq!(expiry.endings().len(), 1);
        let mut marks = Vec::new();
        for day in 0..100 {
            let told = told(&mut expiry, NOW + day * DAY);
            marks.extend(told.into_iter().map(|mark| (day, mark / DAY)));
        }
        assert_eq!(marks, [(60, 30), (83, 7), (89, 1), (90, 0)]);
        // A process that starts late says the one word that counts.
        let mut late = Expiry { endings: vec![certificate(3)], said: BTreeMap::new() };
        assert_eq!(told(&mut late, NOW), [7 * DAY]);
        // A renewed one begins anew, one that stays does not.
        expiry.take_over(vec![certificate(90), certificate(91)], NOW + 90 * DAY);
        assert!(told(&mut expiry, NOW + 90 * DAY).is_empty());
        assert_eq!(told(&mut expiry, NOW + 91 * DAY), [0]);
    }

    #[test]
    fn a_list_is_told_when_a_quarter_of_its_life_is_left_a_day_at_most() {
        for (life, warned) in [(8 * 3600, 2 * 3600), (40 * DAY, DAY)] {
            let list = Ending::list("CN=CA".to_owned(), NOW, NOW + life);
            let mut expiry = Expiry { endings: vec![list], said: BTreeMap::new() };
            assert!(told(&mut expiry, NOW + life - warned - 1).is_empty());
            assert_eq!(told(&mut expiry, NOW + life - warned), [warned]);
            assert!(told(&mut expiry, NOW + life - 1).is_empty());
            assert_eq!(told(&mut expiry, NOW + life), [0]);
            assert!(told(&mut expiry, NOW + life + DAY).is_empty());
        }
    }
}
