//! DATA and the message behind it.

use std::io;
use std::mem::take;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt};

use super::Received;
use super::conversation::{Conversation, code, is_good};
use super::rules::{Act, Step};
use super::wire::{over, read_message};

impl Conversation<'_> {
    /// DATA. In a group of commands it follows a RCPT that was refused, and is refused as well (RFC 2920,
    /// section 3.1; RFC 5321, section 3.3).
    pub(super) async fn data(&mut self) -> io::Result<()> {
        if self.from.is_none() {
            return self.say("503 5.5.1 MAIL first").await;
        }
        if self.recipients.is_empty() {
            return self.say("554 5.5.1 no valid recipients").await;
        }
        let code = self.answer(Step::Data, "354 go on").await?;
        self.wire.flush().await?;
        if code == 354 { self.message().await } else { Ok(()) }
    }

    async fn message(&mut self) -> io::Result<()> {
        let message = self.body().await?;
        let length = message.len();
        self.shared.note(self.number, || format!("C: (a message of {length} octets)"));
        let doing = self.shared.doing(Step::Dot, &self.addressed);
        self.pause(doing.wait).await?;
        let usual = if self.is_too_large(length) { "552 5.3.4 too large" } else { "250 2.0.0 queued" };
        // Kept before the answer: who hears the answer may look at once.
        let acknowledged = match &doing.act {
            Act::Usual => is_good(code(usual.as_bytes())),
            Act::Say(octets) => is_good(code(octets)),
            Act::Repeat(_) | Act::Close(_) | Act::Reset(_) | Act::Silence => false,
        };
        let from = self.from.take().unwrap_or_default();
        for recipient in take(&mut self.recipients) {
            self.shared.keep(Received {
                from: from.address.clone(),
                mail_parameters: from.parameters.clone(),
                recipient: recipient.address,
                recipient_parameters: recipient.parameters,
                message: message.clone(),
                acknowledged,
            })?;
        }
        self.act(doing, usual).await?;
        self.messages += 1;
        if self.messages == self.shared.script.messages_per_connection {
            self.wire.flush().await?;
            return Err(over());
        }
        Ok(())
    }

    /// Reads the message; a rule for its midst steps in behind the first piece.
    async fn body(&mut self) -> io::Result<Vec<u8>> {
        let doing = self.shared.doing(Step::Body, &self.addressed);
        if doing.act == Act::Usual {
            return read_message(&mut self.wire, doing.wait).await;
        }
        if self.wire.fill_buf().await?.is_empty() {
            return Err(over());
        }
        self.pause(doing.wait).await?;
        self.act(doing, "").await?;
        self.wire.flush().await?;
        read_message(&mut self.wire, Duration::ZERO).await
    }

    /// Whether the size that MAIL declares is more than the sink takes (RFC 1870, section 6.1).
    pub(super) fn is_declared_too_large(&self, parameters: &str) -> bool {
        let mut words = parameters.split_ascii_whitespace();
        let declared = words.find_map(|word| word.to_ascii_uppercase().strip_prefix("SIZE=")?.parse().ok());
        declared.is_some_and(|octets| self.is_too_large(octets))
    }

    /// RFC 1870, section 4: 0 stands for no limit.
    fn is_too_large(&self, octets: usize) -> bool {
        let size = |keyword: &String| {
            let mut words = keyword.split_ascii_whitespace();
            let is_size = words.next().is_some_and(|word| word.eq_ignore_ascii_case("SIZE"));
            words.next().filter(|_| is_size)?.parse::<usize>().ok()
        };
        let limit = self.shared.script.keywords.iter().find_map(size);
        limit.is_some_and(|limit| limit > 0 && octets > limit)
    }
}
