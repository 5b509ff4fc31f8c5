//! AUTH as a sink understands it (RFC 4954): PLAIN, LOGIN and XOAUTH2.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::conversation::Conversation;
use super::rules::Step;

/// What a server of XOAUTH2 tells before it refuses.
const CHALLENGE: &str = r#"{"status":"401","schemes":"bearer","scope":"https://mail.example.com/"}"#;
const REFUSED: &str = "535 5.7.8 bad credentials";

fn decoded(text: &str) -> Vec<u8> {
    STANDARD.decode(text).unwrap_or_default()
}

impl Conversation<'_> {
    /// The mechanisms to offer; none where nobody needs to log in.
    pub(super) fn mechanisms(&self) -> Option<String> {
        let script = &self.shared.script;
        let passwords = script.login.as_ref().map(|_| "PLAIN LOGIN");
        let bearer = script.bearer.as_ref().map(|_| "XOAUTH2");
        let offered: Vec<&str> = passwords.into_iter().chain(bearer).collect();
        (!offered.is_empty()).then(|| format!("AUTH {}", offered.join(" ")))
    }

    /// AUTH with or without an initial response.
    pub(super) async fn log_in(&mut self, line: &str) -> io::Result<()> {
        let mut words = line.split_ascii_whitespace().skip(1);
        let mechanism = words.next().unwrap_or_default().to_ascii_uppercase();
        let initial = words.next();
        let is_right = match mechanism.as_str() {
            _ if self.is_logged_in => return self.say("503 5.5.1 once is enough").await,
            "PLAIN" => self.plain(initial).await?,
            "LOGIN" => self.user_and_password(initial).await?,
            "XOAUTH2" => self.bearer(initial).await?,
            _ => return self.say("504 5.5.4 no such mechanism").await,
        };
        let usual = if is_right { "235 2.7.0 ok" } else { REFUSED };
        self.is_logged_in = self.answer(Step::Auth, usual).await? == 235;
        Ok(())
    }

    /// RFC 4616.
    async fn plain(&mut self, initial: Option<&str>) -> io::Result<bool> {
        let given = self.initial_or_asked(initial, "").await?;
        let login = self.shared.script.login.as_ref();
        Ok(login.is_some_and(|(user, password)| format!("\0{user}\0{password}").as_bytes() == given))
    }

    /// The old LOGIN: two questions.
    async fn user_and_password(&mut self, initial: Option<&str>) -> io::Result<bool> {
        let user = self.initial_or_asked(initial, "Username:").await?;
        let password = self.initial_or_asked(None, "Password:").await?;
        let login = self.shared.script.login.as_ref();
        Ok(login.is_some_and(|(name, secret)| name.as_bytes() == user && secret.as_bytes() == password))
    }

    /// A wrong token is told in a challenge, which the client answers with an empty line before it hears 535.
    async fn bearer(&mut self, initial: Option<&str>) -> io::Result<bool> {
        let given = self.initial_or_asked(initial, "").await?;
        let wanted = self.shared.script.bearer.as_ref();
        let wanted = wanted.map(|(user, token)| format!("user={user}\u{1}auth=Bearer {token}\u{1}\u{1}"));
        let is_right = wanted.is_some_and(|wanted| wanted.as_bytes() == given);
        if !is_right {
            self.initial_or_asked(None, CHALLENGE).await?;
        }
        Ok(is_right)
    }

    async fn initial_or_asked(&mut self, initial: Option<&str>, question: &str) -> io::Result<Vec<u8>> {
        if let Some(initial) = initial {
            return Ok(decoded(initial));
        }
        self.say(&format!("334 {}", STANDARD.encode(question))).await?;
        let answer = self.hear().await?;
        Ok(decoded(&answer))
    }
}
