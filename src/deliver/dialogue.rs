//! The first words with a relay, spoken by ourselves: greeting, EHLO, STARTTLS and AUTH.
//!
//! Everything a server says here is bounded and checked before the client library sees the connection.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::stream::{MAX_REPLY, Stream};

/// One reply: its code and the text of each line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Three digits.
    pub code: u16,
    /// One text a line.
    pub lines: Vec<String>,
}

impl Reply {
    /// All lines in one, cut to what a log needs.
    pub fn text(&self) -> String {
        self.lines.join(" ").chars().filter(|c| !c.is_control()).take(500).collect()
    }

    /// The parameters of an EHLO keyword, upper case; none where the server did not offer it. Keywords have no
    /// case (RFC 5321, section 2.4).
    pub fn keyword(&self, keyword: &str) -> Option<Vec<String>> {
        self.lines.iter().skip(1).find_map(|line| {
            let mut words = line.split_whitespace().map(str::to_ascii_uppercase);
            (words.next().as_deref() == Some(keyword)).then(|| words.collect())
        })
    }
}

/// Why a dialogue ended.
#[derive(Debug, thiserror::Error)]
pub enum DialogueError {
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Lost(#[from] std::io::Error),
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// The reply has no end within the limit.
    #[error("the reply is longer than {MAX_REPLY} octets")]
    Endless,
    /// The reply is not SMTP.
    #[error("the reply is not SMTP")]
    Garbage,
    /// The server said something nobody asked for.
    #[error("the server sent more than the reply; what follows cannot be trusted")]
    Unasked,
}

/// Reads one reply. Nothing may stand behind it: between two commands a server is silent, and octets sent in
/// the clear behind the reply to STARTTLS would be taken as said under TLS.
pub async fn read_reply(stream: &mut Stream) -> Result<Reply, DialogueError> {
    let mut received = Vec::new();
    loop {
        if let Some((reply, rest)) = parse(&received)? {
            return if rest == 0 { Ok(reply) } else { Err(DialogueError::Unasked) };
        }
        if received.len() > MAX_REPLY {
            return Err(DialogueError::Endless);
        }
        if stream.read_buf(&mut received).await? == 0 {
            return Err(DialogueError::Closed);
        }
    }
}

/// Writes one command line and reads its reply.
pub async fn command(stream: &mut Stream, line: &str) -> Result<Reply, DialogueError> {
    stream.write_all(format!("{line}\r\n").as_bytes()).await?;
    stream.flush().await?;
    read_reply(stream).await
}

/// A whole reply and how many octets follow it; none while it is not complete.
fn parse(received: &[u8]) -> Result<Option<(Reply, usize)>, DialogueError> {
    let mut lines = Vec::new();
    let mut at = 0;
    while let Some(length) = received[at..].iter().position(|byte| *byte == b'\n') {
        let line = received[at..at + length].strip_suffix(b"\r").unwrap_or(&received[at..at + length]);
        at += length + 1;
        let (code, rest) = line.split_at_checked(3).ok_or(DialogueError::Garbage)?;
        let code = std::str::from_utf8(code)
            .ok()
            .and_then(|code| code.parse().ok())
            .filter(|code| (200..600).contains(code));
        let code: u16 = code.ok_or(DialogueError::Garbage)?;
        lines.push(String::from_utf8_lossy(rest.get(1..).unwrap_or_default()).into_owned());
        match rest.first() {
            None | Some(b' ') => return Ok(Some((Reply { code, lines }, received.len() - at))),
            Some(b'-') => {}
            Some(_) => return Err(DialogueError::Garbage),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_whole_or_refused() {
        let text = |received: &str| match parse(received.as_bytes()) {
            Ok(Some((reply, rest))) => format!("{} {:?} +{rest}", reply.code, reply.lines),
            Ok(None) => "more".to_owned(),
            Err(error) => error.to_string(),
        };
        let table = [
            ("220 mail.example.com ready\r\n", "220 [\"mail.example.com ready\"] +0"),
            ("250-a\r\n250 b\r\n", "250 [\"a\", \"b\"] +0"),
            ("250\r\n", "250 [\"\"] +0"),
            ("250-a\r\n250", "more"),
            ("", "more"),
            ("220 a\r\n250 injected\r\n", "220 [\"a\"] +14"),
            ("HTTP/1.1 400 Bad Request\r\n", "the reply is not SMTP"),
            ("999 a\r\n", "the reply is not SMTP"),
            ("25\r\n", "the reply is not SMTP"),
            ("250_a\r\n", "the reply is not SMTP"),
            ("\r\n", "the reply is not SMTP"),
        ];
        for (received, read) in table {
            assert_eq!(text(received), read, "{received:?}");
        }
    }

    #[test]
    fn keywords_have_no_case_and_blank_lines_are_none() {
        let lines = ["mail.example.com", "   ", "", "auth plain Login", "STARTTLS", "size 100"];
        let reply = Reply { code: 250, lines: lines.map(str::to_owned).to_vec() };
        assert_eq!(reply.keyword("AUTH").unwrap(), ["PLAIN", "LOGIN"]);
        assert_eq!(reply.keyword("STARTTLS"), Some(vec![]));
        assert_eq!(reply.keyword("DSN"), None);
        assert_eq!(reply.keyword("MAIL.EXAMPLE.COM"), None, "the first line is the server's name");
    }
}
