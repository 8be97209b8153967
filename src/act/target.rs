//! Where a webhook may point: the public internet, unless the operator allows more.
//!
//! An alert's URL is configuration, but names resolve to whatever their owner says, at every connection anew. So the
//! check sits in the resolver ([`PublicOnly`]) as well as on the URL ([`check`]): a name that leads to a private,
//! loopback or link-local address, such as a cloud's metadata service, is never connected to.

use std::{
    error::Error as StdError,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// Why a URL is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// Not a URL of the web.
    #[error("its URL must begin with https://")]
    Scheme,
    /// A secret where logs may show it.
    #[error("its URL must not carry a user name or a password")]
    Credentials,
    /// A private address.
    #[error("its URL leads to a private address; set allow_private = true if that is meant")]
    Private,
}

/// Checks what can be seen without resolving. Plain http and private addresses need `allow_private`.
///
/// # Errors
/// Why the URL is refused.
pub fn check(url: &Url, allow_private: bool) -> Result<(), Refusal> {
    let private = match url.host() {
        None => return Err(Refusal::Scheme),
        Some(Host::Ipv4(ip)) => !is_public(IpAddr::V4(ip)),
        Some(Host::Ipv6(ip)) => !is_public(IpAddr::V6(ip)),
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name == "localhost" || name.ends_with(".localhost")
        }
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Refusal::Credentials);
    }
    match url.scheme() {
        _ if private && !allow_private => Err(Refusal::Private),
        "https" => Ok(()),
        "http" if allow_private => Ok(()),
        _ => Err(Refusal::Scheme),
    }
}

/// Whether an address belongs to the public internet, by IANA's registries of special-purpose addresses. Addresses
/// that embed an IPv4 address are judged by it.
#[must_use]
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    !matches!(
        (a, b, c),
        (0 | 10 | 127 | 224..=255, ..)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 168, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (198, 18 | 19, _)
            | (198, 51, 100)
            | (203, 0, 113)
    )
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match ip.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        [0x2002, high, low, ..] => embedded(high, low),
        [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
        // Only 2000::/3 is handed out to the public internet.
        [first, ..] => (0x2000..0x4000).contains(&first),
    }
}

/// A name had no public address.
#[derive(Debug)]
pub(super) struct NoPublicAddress;

impl fmt::Display for NoPublicAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name has no public address")
    }
}

impl StdError for NoPublicAddress {}

/// Resolves names like the system does, and leaves out every address that is not public.
#[derive(Debug)]
pub struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|address| is_public(address.ip())).collect();
            if public.is_empty() {
                return Err(NoPublicAddress.into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_and_special_addresses_are_not_public() {
        for ip in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fd00:ec2::254",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
            "::7f00:1",
            "ff02::1",
        ] {
            assert!(!is_public(ip.parse().unwrap()), "{ip} is not public");
        }
        for ip in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "192.0.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8"] {
            assert!(is_public(ip.parse().unwrap()), "{ip} is public");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_to_a_private_address_is_not_resolved() {
        let Err(error) = PublicOnly.resolve("localhost".parse().unwrap()).await else {
            panic!("localhost was resolved");
        };
        assert!(error.is::<NoPublicAddress>());
    }

    #[test]
    fn urls_that_hide_a_private_host_are_refused_without_leave() {
        // The last three are how URLs write 127.0.0.1 in other words.
        for url in [
            "http://localhost/",
            "https://LOCALHOST./",
            "https://a.localhost/",
            "https://[::1]/",
            "https://10.0.0.1/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://0177.0.0.1/",
        ] {
            assert_eq!(check(&url.parse().unwrap(), false), Err(Refusal::Private), "{url}");
            assert_eq!(check(&url.parse().unwrap(), true), Ok(()), "{url}");
        }
        let check = |url: &str, allow| check(&url.parse().unwrap(), allow);
        assert_eq!(check("https://example.com/hook", false), Ok(()));
        assert_eq!(check("http://example.com/hook", false), Err(Refusal::Scheme));
        assert_eq!(check("ftp://example.com/", true), Err(Refusal::Scheme));
        assert_eq!(check("https://user:pass@example.com/", false), Err(Refusal::Credentials));
    }
}
