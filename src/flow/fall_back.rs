//! What is given up on one channel goes to the CRM by another.

use tracing::{info, warn};

use super::desk::Desk;
use super::intake::chain;
use super::make::Making;
use crate::compose::attachment_name;
use crate::ids::DeliveryId;
use crate::plan::{History, Plan, Timing, plan};
use crate::session::{Reading, read};
use crate::store::{FallBack, Fallen, Planned, Store, StoreError};

/// Lets the other channel of a delivery take over, and says by which delivery; none where there is no other channel,
/// where it has taken over before, or where a newer revision brings the news. `why` says why the delivery was given
/// up: it was refused for good, it grew too old, or its mail came back.
pub async fn fall_back(
    desk: &Desk,
    store: &Store,
    delivery: DeliveryId,
    why: String,
) -> Result<Option<DeliveryId>, StoreError> {
    let tenant = desk.tenant.name.clone();
    let Some(fallen) = store.fallen(tenant.clone(), delivery).await? else { return Ok(None) };
    let planned = planned(desk, store, &fallen).await?;
    let (to, now) = (fallen.to, desk.clock.now());
    let fall_back = FallBack { tenant: tenant.clone(), delivery, to, why, planned, now };
    let taken = store.fall_back(fall_back).await?;
    if let Some(by) = taken {
        warn!(tenant, delivery = delivery.0, by = by.0, channel = to.as_str(), "another channel takes over");
    } else {
        info!(tenant, delivery = delivery.0, "given up; there is nothing to take over");
    }
    Ok(taken)
}

/// Plans the same revision for the other channel, at once. What went to the session's ticket before is followed, as by
/// every update; what waited has been replaced by the delivery that was given up.
async fn planned(desk: &Desk, store: &Store, fallen: &Fallen) -> Result<Planned, StoreError> {
    let (tenant, Fallen { key, raw, digest, .. }) = (&desk.tenant, fallen);
    let session = match read(raw, &attachment_name(key.name), desk.session_bytes.max(raw.len())) {
        Ok(Reading::Session(session)) => *session,
        Ok(Reading::Other(what)) => return Ok(Planned::Hold(format!("the stored file is {what}"))),
        Err(fault) => return Ok(Planned::Hold(chain(&fault))),
    };
    let deliveries = fallen.before.iter().filter(|past| past.state.may_have_arrived()).cloned().collect();
    let history = History { deliveries, ..History::default() };
    let now = desk.clock.now();
    let mail = match plan(&session, digest, tenant, fallen.to, &history, Timing::Now, now) {
        Plan::Send(mail) => mail,
        Plan::Hold { reason, .. } => return Ok(Planned::Hold(reason)),
        Plan::Keep(why) => return Ok(Planned::Nothing(why)),
    };
    let followed = match mail.follows {
        Some(of) => store.revision(key.clone(), of).await?,
        None => None,
    };
    Ok(Making { desk, key, raw, digest, followed: followed.as_deref(), is_smaller: false }
        .planned(session, &mail))
}
