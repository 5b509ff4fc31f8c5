//! The HTTP client for requests that bring a secret: to the checked address and to nowhere else.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use reqwest::{Client as Http, redirect, retry};

use super::address::Resolver;
use super::client::ClientError;
use crate::deliver::tls::client_config;

/// How long an unused connection is kept: shorter than servers keep theirs, so that none is used that is gone.
const IDLE: Duration = Duration::from_secs(2);

/// How long is waited.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For a connection.
    pub connect: SignedDuration,
    /// For a whole answer, from the connection on.
    pub answer: SignedDuration,
}

/// A client that follows nothing, tries nothing again and trusts `ca_file` besides the system's authorities.
pub fn guarded(ca_file: Option<&Path>, allow_private: bool, limits: Limits) -> Result<Http, ClientError> {
    let limit = |wait: SignedDuration| Duration::try_from(wait).unwrap_or_default();
    let http = Http::builder()
        .tls_backend_preconfigured(client_config(ca_file)?)
        // A redirect or a proxy of the environment would be given the secrets, and could be anywhere.
        .redirect(redirect::Policy::none())
        .no_proxy()
        .retry(retry::never())
        .dns_resolver(Arc::new(Resolver { allow_private }))
        .connect_timeout(limit(limits.connect))
        .timeout(limit(limits.answer))
        .pool_idle_timeout(IDLE)
        .user_agent(concat!("aftercall/", env!("CARGO_PKG_VERSION")))
        .build()?;
    Ok(http)
}
