//! A CRM of our own: a small HTTP/1.1 server that hears requests and answers as the test says.

use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::support::{Talk, server};

/// One request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Heard {
    /// A header's value; empty where it is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// What a CRM does about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A status with header fields, each with its line end, and a body.
    Say(u16, String, String),
    /// The connection is closed without a word.
    Lose,
    /// The connection is kept and nothing is said.
    Hold,
    /// A status, and a body that is shorter than it was said to be.
    Break(u16, String),
}

impl Answer {
    pub(crate) fn status(status: u16) -> Self {
        Self::Say(status, String::new(), "{}".to_owned())
    }

    pub(crate) fn json(status: u16, body: &str) -> Self {
        Self::Say(status, String::new(), body.to_owned())
    }
}

/// A running CRM; clones share what it hears.
#[derive(Clone)]
pub(crate) struct Crm {
    pub(crate) port: u16,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Crm {
    /// `answer` gets each request with its number, from 1.
    pub(crate) fn start(answer: impl Fn(&Heard, usize) -> Answer + Send + Sync + 'static) -> Self {
        let heard = Arc::<Mutex<Vec<Heard>>>::default();
        let hearing = Arc::clone(&heard);
        let port = server(move |mut talk, _| {
            while let Some(request) = hear(&mut talk) {
                let number = {
                    let mut heard = hearing.lock().unwrap();
                    heard.push(request.clone());
                    heard.len()
                };
                match answer(&request, number) {
                    Answer::Say(status, headers, body) => {
                        let length = body.len();
                        talk.say(&format!(
                            "HTTP/1.1 {status} As Scripted\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
                        ));
                    }
                    Answer::Break(status, body) => {
                        let length = body.len() + 9;
                        talk.say(&format!(
                            "HTTP/1.1 {status} As Scripted\r\ncontent-length: {length}\r\n\r\n{body}"
                        ));
                        return;
                    }
                    Answer::Lose => return,
                    Answer::Hold => return talk.hear_out(),
                }
            }
        });
        Self { port, heard }
    }

    pub(crate) fn base(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// Method and path of each request so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.heard().iter().map(|heard| format!("{} {}", heard.method, heard.path)).collect()
    }

    /// What was heard so far, which is forgotten.
    pub(crate) fn take(&self) -> Vec<Heard> {
        std::mem::take(&mut *self.heard.lock().unwrap())
    }
}

fn hear(talk: &mut Talk) -> Option<Heard> {
    let line = talk.hear()?;
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    assert_eq!(words.next(), Some("HTTP/1.1"), "{line}");
    let mut headers = Vec::new();
    loop {
        let line = talk.hear()?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ").unwrap();
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let mut heard = Heard { method, path, headers, body: Vec::new() };
    let length = heard.header("content-length").parse().unwrap_or(0);
    heard.body = talk.hear_octets(length)?;
    Some(heard)
}
