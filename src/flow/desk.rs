//! A tenant with everything that its work needs, made once.

use std::sync::Arc;

use crate::clock::Clock;
use crate::config::Config;
use crate::config::reader::Problem;
use crate::config::tenant::Tenant;
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
    /// The key of its tokens.
    pub key: TokenKey,
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
        let secret = match (&tenant.token_key, store) {
            (Some(key), _) => key.expose().as_bytes().to_vec(),
            (None, Some(store)) => store.token_secret().await?,
            (None, None) => b"preview".to_vec(),
        };
        Ok(Self {
            key: TokenKey::new(&secret, &tenant.name),
            tenant: Arc::new(tenant.clone()),
            templates,
            shipped,
            session_bytes: config.session_bytes,
            clock,
        })
    }
}
