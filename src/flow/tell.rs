//! Alerts and the words of those who replied, made ready for everybody who is told: by mail, and to the webhook.

use tracing::error;

use super::desk::Desk;
use super::intake::chain;
use crate::address::Address;
use crate::classify::verdict::Verdict;
use crate::correlate::Proof;
use crate::ids::InboundId;
use crate::notice::{self, Notice};
use crate::parse::Mail;
use crate::reply::own_words;
use crate::store::{Matched, Telling};
use crate::webhook::post::{Post, Told};

/// A judged mail of one tenant, and the delivery that it is about.
pub(super) struct Teller<'t> {
    pub(super) desk: &'t Desk,
    pub(super) inbound: InboundId,
    pub(super) mail: &'t Mail,
    pub(super) verdict: &'t Verdict,
    pub(super) matched: &'t Matched,
    pub(super) proof: Proof,
}

impl Teller<'_> {
    /// What tells of something that needs a person; nothing where the tenant names nobody.
    pub(super) fn alert(&self, what: &str) -> Vec<Telling> {
        let mail = self.desk.tenant.reactions.alert.as_ref().and_then(|recipient| {
            let text = format!("{what}\n\n{}", self.context());
            let subject = format!("{}: {what}", self.matched.key);
            self.compose(recipient, None, &subject, &text)
        });
        mail.into_iter().chain(self.post("alert", what)).collect()
    }

    /// What hands a reply on.
    pub(super) fn reply(&self) -> Vec<Telling> {
        let words = own_words(&self.mail.text);
        let mail = self.desk.tenant.reactions.forward.as_ref().and_then(|recipient| {
            let from = self.from();
            let text = format!("{from} wrote:\n\n{words}\n\n{}", self.context());
            let subject =
                format!("{}: {}", self.matched.key, self.mail.headers.get("subject").unwrap_or_default());
            let reply_to: Option<Address> = from.parse().ok();
            self.compose(recipient, reply_to.as_ref(), &subject, &text)
        });
        mail.into_iter().chain(self.post("reply", &words)).collect()
    }

    fn from(&self) -> &str {
        self.mail.headers.addresses("from").first().copied().unwrap_or_default()
    }

    fn compose(
        &self,
        recipient: &Address,
        reply_to: Option<&Address>,
        subject: &str,
        text: &str,
    ) -> Option<Telling> {
        let (desk, now) = (self.desk, self.desk.clock.now());
        let session = &self.matched.key;
        let notice = Notice { session, inbound: self.inbound, recipient, reply_to, subject, text };
        let made = notice::compose(&notice, &desk.tenant, &desk.keys[0], now).map_err(|fault| chain(&fault));
        let signed = made.and_then(|mail| desk.sign(mail, now));
        let mail = signed
            .map_err(|cause| error!(tenant = desk.tenant.name, cause, "a notice cannot be made"))
            .ok()?;
        Some(Telling::Mail(Box::new(mail)))
    }

    fn post(&self, event: &'static str, text: &str) -> Option<Telling> {
        let webhook = self.desk.tenant.reactions.webhook.as_ref()?;
        let Matched { key, delivery, about, .. } = self.matched;
        let told = Told {
            event,
            tenant: &key.tenant,
            session: key.name.to_string(),
            ticket: about.ticket.as_deref(),
            delivery: delivery.0,
            inbound: self.inbound.0,
            verdict: self.verdict.kind.as_str(),
            proof: self.proof.as_str(),
            text,
            from: self.from(),
            at: self.desk.clock.now().to_string(),
        };
        let post = Post::new(&told, webhook)
            .map_err(|fault| error!(tenant = key.tenant, cause = chain(&fault), "a notice cannot be made"))
            .ok()?;
        Some(Telling::Webhook(Box::new(post)))
    }

    /// What a person needs to find the matter.
    fn context(&self) -> String {
        let Matched { key, delivery, about, .. } = self.matched;
        let ticket = about.ticket.as_deref().unwrap_or("none");
        let (kind, rule, inbound) = (self.verdict.kind.as_str(), &self.verdict.rule, self.inbound);
        format!(
            "Session:  {} of tenant {}\nTicket:   {ticket}\nDelivery: {delivery} to {}\nInbound:  {inbound}, {kind} by the rule \
             {rule}\n\naftercall log show {} --tenant {}\naftercall inbox show {inbound}\n",
            key.name, key.tenant, about.recipient, key.name, key.tenant
        )
    }
}
