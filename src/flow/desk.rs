//! A tenant with everything that its work needs, made once.

use std::sync::Arc;

use jiff::Timestamp;

use super::intake::chain;
use crate::clock::Clock;
use crate::compose::{Composed, Parts, compose};
use crate::config::Config;
use crate::config::dkim::Dkim;
use crate::config::reader::Problem;
use crate::config::tenant::Tenant;
use crate::dkim::{DkimError, Signer, sign};
use crate::store::{Store, StoreError};
use crate::template::{Missing, Templates};
use crate::token::TokenKey;

/// One tenant's workplace. Clones are cheap and share everything.
#[derive(Debug, Clone)]
pub struct Desk {
    /// The tenant.
    pub tenant: Arc<Tenant>,
    /// Its templates.
    pub templates: Arc<Templates>,
    /// The shipped templates, for a mail that the tenant's own cannot render.
    pub shipped: Arc<Templates>,
    /// The keys of its tokens: the first signs, the others were used before it.
    pub keys: Arc<[TokenKey]>,
    /// The keys that sign its mails.
    pub signers: Arc<[Signer]>,
    /// The largest session file in octets.
    pub session_bytes: usize,
    /// The time.
    pub clock: Clock,
}

/// Why a tenant cannot work.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// Its templates are wrong.
    #[error("{}", .0.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"))]
    Templates(Vec<Problem>),
    /// A key cannot sign.
    #[error("dkim: the key {selector}._domainkey.{domain}")]
    Dkim {
        /// The key's name.
        selector: String,
        /// The signing domain.
        domain: String,
        /// What is wrong with it.
        #[source]
        source: DkimError,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Desk {
    /// Sets up a tenant. Without a store there is no lasting token key: for previews.
    pub async fn open(
        config: &Config,
        tenant: &Tenant,
        store: Option<&Store>,
        clock: Clock,
    ) -> Result<Self, DeskError> {
        let zone = tenant.time_zone.as_ref();
        let load = |folder, language: &str| {
            Templates::load(folder, language, zone, Missing::Nothing).map_err(DeskError::Templates)
        };
        let templates = Arc::new(load(tenant.templates.as_deref(), &tenant.language)?);
        let own_language = tenant.templates.is_some();
        let shipped = if own_language { Arc::new(load(None, "en")?) } else { Arc::clone(&templates) };
        let given = [&tenant.token_key, &tenant.previous_token_key].into_iter().flatten();
        let mut secrets: Vec<Vec<u8>> = given.map(|key| key.expose().as_bytes().to_vec()).collect();
        match store {
            Some(store) => secrets.push(store.token_secret().await?),
            None if secrets.is_empty() => secrets.push(b"preview".to_vec()),
            None => {}
        }
        Ok(Self {
            signers: signers(tenant)?.into(),
            keys: secrets.iter().map(|secret| TokenKey::new(secret, &tenant.name)).collect(),
            tenant: Arc::new(tenant.clone()),
            templates,
            shipped,
            session_bytes: config.session_bytes,
            clock,
        })
    }

    /// Makes the message of one delivery, signed; or says why there is none.
    pub fn compose(&self, parts: &Parts<'_>, now: Timestamp) -> Result<Composed, String> {
        let composed = compose(parts, &self.tenant, &self.keys[0], now).map_err(|fault| chain(&fault))?;
        self.sign(composed, now)
    }

    /// Signs a message with the tenant's keys.
    pub fn sign(&self, composed: Composed, now: Timestamp) -> Result<Composed, String> {
        let wire = sign(&self.signers, composed.wire, now).map_err(|fault| chain(&fault))?;
        Ok(Composed { wire, ..composed })
    }
}

/// Reads a tenant's keys.
fn signers(tenant: &Tenant) -> Result<Vec<Signer>, DeskError> {
    let signer = |config: &Dkim| {
        Signer::new(config).map_err(|source| {
            let (selector, domain) = (config.selector.clone(), config.domain.clone());
            DeskError::Dkim { selector, domain, source }
        })
    };
    tenant.dkim.iter().map(signer).collect()
}
