//! Which addresses a request may go to. A name is resolved once, and the connection goes to what was checked, so that
//! a name cannot mean another machine a moment later.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Resolves names to addresses that may be used.
#[derive(Debug, Clone, Copy)]
pub struct Resolver {
    /// Whether this machine and private networks may be used.
    pub allow_private: bool,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private = self.allow_private;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let (usable, refused): (Vec<SocketAddr>, Vec<_>) =
                found.partition(|address| allow_private || is_public(address.ip()));
            match (usable.is_empty(), refused.first()) {
                (true, Some(address)) => {
                    let reason = refusal(address.ip());
                    Err(io::Error::new(io::ErrorKind::PermissionDenied, reason).into())
                }
                _ => Ok(Box::new(usable.into_iter()) as Addrs),
            }
        })
    }
}

fn refusal(address: IpAddr) -> String {
    format!("the address {address} is not a public one; allow_private = true would let it be used")
}

/// Why no request may go to this URL; none where its host is a name, which the resolver looks at, or a fit address.
pub fn refused(url: &Url, allow_private: bool) -> Option<String> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let address: IpAddr = host.parse().ok()?;
    (!allow_private && !is_public(address)).then(|| refusal(address))
}

/// Whether an address is of the open network, as the registries of special-purpose addresses have it (RFC 6890).
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || a == 0
        || (a == 100 && (64..128).contains(&b)) // RFC 6598: shared by carriers
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b))
        || a >= 224;
    !is_special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let parts = address.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match parts {
        // An IPv4 address in IPv6 form (RFC 4291, section 2.5.5.2), and those behind translators (RFC 6052, RFC 3056).
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        [0x2002, high, low, ..] => embedded(high, low),
        // RFC 4380: the address within is hidden.
        [0x2001, 0, ..] | [0x2001, 0xdb8, ..] => false,
        // Global unicast is 2000::/3 (RFC 4291, section 2.4).
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_open_network_are_public() {
        let table = [
            ("8.8.8.8", true),
            ("104.16.51.111", true),
            ("100.63.255.255", true),
            ("172.15.0.1", true),
            ("172.32.0.1", true),
            ("2606:4700::6810:336f", true),
            ("64:ff9b::8.8.8.8", true),
            ("0.0.0.0", false),
            ("0.1.2.3", false),
            ("10.0.0.1", false),
            ("100.64.0.1", false),
            ("127.0.0.1", false),
            ("127.255.255.254", false),
            ("169.254.169.254", false),
            ("172.16.0.1", false),
            ("172.31.255.255", false),
            ("192.0.0.170", false),
            ("192.0.2.1", false),
            ("192.168.1.1", false),
            ("198.18.0.1", false),
            ("203.0.113.9", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("::", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:169.254.169.254", false),
            ("::127.0.0.1", false),
            ("64:ff9b::10.0.0.1", false),
            ("2002:7f00:1::", false),
            ("2001::1", false),
            ("2001:db8::1", false),
            ("fc00::1", false),
            ("fd00:ec2::254", false),
            ("fe80::1", false),
            ("ff02::1", false),
        ];
        for (address, public) in table {
            assert_eq!(is_public(address.parse().unwrap()), public, "{address}");
        }
    }

    #[test]
    fn every_way_to_write_an_address_is_looked_at() {
        // The forms that a URL may have for 127.0.0.1.
        for host in
            ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "[::1]", "[::ffff:7f00:1]"]
        {
            let url: Url = format!("https://{host}/").parse().unwrap();
            assert!(refused(&url, false).is_some(), "{host}");
            assert_eq!(refused(&url, true), None, "{host}");
        }
    }
}
