//! Where load goes: `tls:HOST:PORT` or `tcp:HOST:PORT`, without asking a name server.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// A target, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub tls: bool,
    pub address: SocketAddr,
    /// As written, without brackets: what a certificate must carry.
    pub host: String,
    /// Host and port as they stand in a URI.
    pub authority: String,
}

/// What is wrong with a target, and what would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetFault {
    pub why: String,
    pub cure: &'static str,
}

impl fmt::Display for TargetFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

const FORM: &str =
    "write tls:HOST:PORT or tcp:HOST:PORT, IPv6 addresses in brackets: tls:[::1]:5061";

impl Target {
    /// Reads a target; `hosts` is the text of /etc/hosts.
    pub fn parse(text: &str, hosts: &str) -> Result<Target, TargetFault> {
        let fault = |why: String| TargetFault { why, cure: FORM };
        let (transport, authority) =
            text.split_once(':').ok_or_else(|| fault(format!("`{text}` has no transport")))?;
        let tls = match transport {
            "tls" => true,
            "tcp" => false,
            "udp" => return Err(fault("there is no UDP here: a SIP stream is TCP or TLS".into())),
            other => return Err(fault(format!("`{other}` is no transport"))),
        };
        let (written, port) =
            authority.rsplit_once(':').ok_or_else(|| fault(format!("`{text}` has no port")))?;
        let port: u16 = port
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| fault(format!("`{port}` is no port")))?;
        let bracketed = written.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = bracketed.unwrap_or(written);
        if host.is_empty() || bracketed.is_none() && host.contains(':') {
            return Err(fault(format!("`{written}` is no host")));
        }
        let ip = match host.parse::<IpAddr>() {
            Ok(ip) => ip,
            Err(_) => look_up(host, hosts).ok_or_else(|| TargetFault {
                why: format!("`{host}` is no address, and /etc/hosts does not know it"),
                cure: "give its address, and --server-name NAME for the certificate; no name server is asked, \
                       since that would be UDP",
            })?,
        };
        Ok(Target {
            tls,
            address: SocketAddr::new(ip, port),
            host: host.to_owned(),
            authority: authority.to_owned(),
        })
    }
}

/// The first address of a name in /etc/hosts (hosts(5)).
fn look_up(name: &str, hosts: &str) -> Option<IpAddr> {
    let lines = hosts.lines().map(|line| line.split('#').next().unwrap_or(""));
    let found = lines.filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let ip: IpAddr = words.next()?.parse().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(name)).then_some(ip)
    });
    found.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTS: &str = "# comment\n127.0.0.1 localhost # loop\n::1 localhost ip6-localhost\n";

    #[test]
    fn addresses_and_known_names_are_targets() {
        for (text, tls, address, host) in [
            ("tls:127.0.0.1:5061", true, "127.0.0.1:5061", "127.0.0.1"),
            ("tcp:[::1]:5060", false, "[::1]:5060", "::1"),
            ("tcp:LocalHost:5060", false, "127.0.0.1:5060", "LocalHost"),
            ("tls:ip6-localhost:1", true, "[::1]:1", "ip6-localhost"),
        ] {
            let target = Target::parse(text, HOSTS).unwrap();
            assert_eq!((target.tls, target.address.to_string().as_str()), (tls, address));
            assert_eq!(target.host, host);
            assert!(text.ends_with(&target.authority));
        }
    }

    #[test]
    fn what_is_no_target_is_said() {
        for (text, why) in [
            ("localhost", "no transport"),
            ("udp:127.0.0.1:5060", "no UDP"),
            ("ws:127.0.0.1:80", "no transport"),
            ("tcp:127.0.0.1", "no port"),
            ("tcp:127.0.0.1:0", "no port"),
            ("tcp:::1:5060", "no host"),
            ("tcp::5060", "no host"),
            ("tcp:sip.example.com:5060", "/etc/hosts"),
        ] {
            let fault = Target::parse(text, HOSTS).unwrap_err();
            assert!(fault.why.contains(why), "{text}: {fault}");
        }
    }
}
