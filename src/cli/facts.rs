//! The facts of this host that a configuration is checked against. Never judges them.

use std::net::{Ipv6Addr, TcpListener};
use std::time::{SystemTime, UNIX_EPOCH};

use miette::{IntoDiagnostic, WrapErr, miette};

use crate::config::HostFacts;

/// Reads the facts of this process and host.
///
/// # Errors
/// `/proc` is not mounted, or the affinity of the process cannot be read.
pub fn host() -> Result<HostFacts, miette::Report> {
    let mut cores: Vec<usize> = core_affinity::get_core_ids()
        .ok_or_else(|| miette!("cannot read on which cores this process may run"))?
        .into_iter()
        .map(|core| core.id)
        .collect();
    cores.sort_unstable();
    #[expect(clippy::disallowed_methods, reason = "certificates are judged by the wall clock")]
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    Ok(HostFacts {
        cores,
        descriptors: descriptor_limit(&read("/proc/self/limits")?)
            .ok_or_else(|| miette!("no descriptor limit in /proc/self/limits"))?,
        user: effective_user(&read("/proc/self/status")?)
            .ok_or_else(|| miette!("no user id in /proc/self/status"))?,
        unix_time: i64::try_from(since_1970).unwrap_or(i64::MAX),
        ipv6_loopback: TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok(),
    })
}

fn read(path: &str) -> Result<String, miette::Report> {
    std::fs::read_to_string(path).into_diagnostic().wrap_err(format!("cannot read {path}"))
}

/// `Max open files            1024                 524288               files`: the second number is the hard limit.
fn descriptor_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_ascii_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// `Uid: real effective saved filesystem`.
fn effective_user(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_user_are_read_as_the_kernel_writes_them() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             95957                95957                processes \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(descriptor_limit(limits), Some(524_288));
        let unlimited =
            "Max open files            unlimited            unlimited            files\n";
        assert_eq!(descriptor_limit(unlimited), Some(u64::MAX));
        assert_eq!(descriptor_limit("Max processes 1 2 processes\n"), None);
        assert_eq!(effective_user("Name:\tx\nUid:\t1000\t1001\t1002\t1003\n"), Some(1001));
    }

    #[test]
    fn this_host_has_facts() {
        let facts = host().expect("facts");
        assert!(!facts.cores.is_empty());
        assert!(facts.descriptors > 0);
        assert!(facts.unix_time > 1_700_000_000);
    }
}
