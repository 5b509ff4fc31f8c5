//! The scripted mail server itself, where the program does not show it: what it answers to a client that talks
//! as it should, and to one that does not.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;

use aftercall::sink::Script;
use aftercall::sink::rules::{Act, Rule, Step};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::support::{PATIENCE, Relay, until};

/// A client that says what it is told.
struct Client(BufReader<TcpStream>);

impl Client {
    fn new(relay: &Relay) -> Self {
        let stream = TcpStream::connect(relay.sink.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    /// One that has heard the greeting.
    fn greeted(relay: &Relay) -> Self {
        let mut client = Self::new(relay);
        assert_eq!(client.hear(), "220 sink.example.com ESMTP");
        client
    }

    /// Says lines in one packet.
    fn say(&mut self, lines: &[&str]) {
        let octets: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        self.0.get_mut().write_all(octets.as_bytes()).unwrap();
    }

    /// The next line; empty once the server has gone.
    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Says lines in one packet and hears as many as that.
    fn ask(&mut self, lines: &[&str]) -> Vec<String> {
        self.say(lines);
        lines.iter().map(|_| self.hear()).collect()
    }

    /// The codes of the replies to lines in one packet.
    fn codes(&mut self, lines: &[&str]) -> Vec<String> {
        self.ask(lines).iter().map(|line| line.chars().take(3).collect()).collect()
    }

    /// All keywords of EHLO.
    fn hello(&mut self) -> Vec<String> {
        self.say(&["EHLO client.example.com"]);
        let mut keywords = Vec::new();
        loop {
            let line = self.hear();
            keywords.push(line.get(4..).unwrap_or_default().to_owned());
            if !line.starts_with("250-") {
                return keywords.split_off(1);
            }
        }
    }
}

#[test]
fn a_group_of_commands_has_one_answer_each_in_order() {
    let relay = Relay::with(Script { keywords: vec!["PIPELINING".to_owned()], ..Script::default() });
    let mut client = Client::greeted(&relay);
    assert_eq!(client.hello(), ["PIPELINING"]);
    let all_refused = ["MAIL FROM:<a@example.com>", "RCPT TO:<perm@example.com>", "DATA", "RSET"];
    assert_eq!(client.codes(&all_refused), ["250", "550", "554", "250"]);
    let one_refused =
        ["MAIL FROM:<a@example.com>", "RCPT TO:<perm@example.com>", "RCPT TO:<b@example.com>", "DATA"];
    assert_eq!(client.codes(&one_refused), ["250", "550", "250", "354"]);
    // The message, its dot and the next group in one packet.
    let next = ["A: b", "", "..x", ".", "MAIL FROM:<>", "RCPT TO:<c@example.com>", "DATA"];
    client.say(&next);
    assert_eq!([(); 4].map(|()| client.hear()[..3].to_owned()), ["250", "250", "250", "354"]);
    assert_eq!(client.codes(&["."]), ["250"]);
    assert_eq!(client.codes(&["DATA", "RCPT TO:<a@example.com>", "QUIT"]), ["503", "503", "221"]);
    assert_eq!(client.hear(), "");
    let received = relay.received();
    let told: Vec<_> = received.iter().map(|mail| (&*mail.from, &*mail.recipient)).collect();
    assert_eq!(told, [("a@example.com", "b@example.com"), ("", "c@example.com")]);
    assert_eq!(received[0].message, b"A: b\r\n\r\n.x\r\n");
}

#[test]
fn parameters_and_lines_are_kept_as_they_came() {
    let relay = Relay::start();
    let mut client = Client::greeted(&relay);
    let group = [
        "mail FROM:<a@example.com> SIZE=10 RET=HDRS ENVID=x+2By",
        "RCPT TO:<b@example.com> NOTIFY=FAILURE ORCPT=rfc822;b@example.com",
        "RCPT TO:<c@example.com>",
        "DATA",
    ];
    assert_eq!(client.codes(&group), ["250", "250", "250", "354"]);
    assert_eq!(client.codes(&["."]), ["250"]);
    let received = relay.received();
    assert_eq!(received.len(), 2, "one for each recipient");
    assert_eq!(received[0].mail_parameters, "SIZE=10 RET=HDRS ENVID=x+2By");
    assert_eq!(received[0].recipient_parameters, "NOTIFY=FAILURE ORCPT=rfc822;b@example.com");
    assert_eq!(received[1].recipient_parameters, "");
    let said = relay.sink.conversations().remove(0);
    assert_eq!(said[0], "S: 220 sink.example.com ESMTP");
    assert_eq!(said[1], format!("C: {}", group[0]));
    assert_eq!(said[said.len() - 2..], ["C: (a message of 0 octets)", "S: 250 2.0.0 queued"]);
}

#[test]
fn a_message_over_the_size_is_refused_when_it_is_declared_and_when_it_is_not() {
    let relay = Relay::with(Script { keywords: vec!["SIZE 20".to_owned()], ..Script::default() });
    let mut client = Client::greeted(&relay);
    assert_eq!(client.ask(&["MAIL FROM:<a@example.com> SIZE=21"]), ["552 5.3.4 too large"]);
    let group = ["MAIL FROM:<a@example.com> SIZE=20", "RCPT TO:<b@example.com>", "DATA"];
    assert_eq!(client.codes(&group), ["250", "250", "354"]);
    client.say(&["more than twenty octets", "."]);
    assert_eq!(client.hear(), "552 5.3.4 too large");
    assert!(!relay.only().acknowledged);
}

#[test]
fn a_password_or_a_token_opens_the_way_to_mail_and_nothing_else_does() {
    let relay = Relay::with(Script {
        login: Some(("u".to_owned(), "p".to_owned())),
        bearer: Some(("u".to_owned(), "t".to_owned())),
        ..Script::default()
    });
    let coded = |text: &str| STANDARD.encode(text);
    let right = format!("AUTH XOAUTH2 {}", coded("user=u\u{1}auth=Bearer t\u{1}\u{1}"));
    let wrong = format!("AUTH XOAUTH2 {}", coded("user=u\u{1}auth=Bearer x\u{1}\u{1}"));
    let mut client = Client::greeted(&relay);
    assert_eq!(client.hello(), ["AUTH PLAIN LOGIN XOAUTH2", "8BITMIME"]);
    assert_eq!(client.ask(&["MAIL FROM:<>"]), ["530 5.7.0 authentication required"]);
    let challenge = client.ask(&[&wrong]).remove(0);
    let told = STANDARD.decode(challenge.strip_prefix("334 ").unwrap()).unwrap();
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&told).unwrap()["status"], "401");
    assert_eq!(client.ask(&[""]), ["535 5.7.8 bad credentials"]);
    assert_eq!(client.ask(&[&format!("AUTH PLAIN {}", coded("\0u\0x"))]), ["535 5.7.8 bad credentials"]);
    assert_eq!(client.codes(&["AUTH LOGIN", &coded("u"), &coded("p")]), ["334", "334", "235"]);
    assert_eq!(client.codes(&[&right, "MAIL FROM:<>"]), ["503", "250"]);
    let mut client = Client::greeted(&relay);
    assert_eq!(client.codes(&[&right, "MAIL FROM:<>"]), ["235", "250"]);
    let mut client = Client::greeted(&relay);
    assert_eq!(client.codes(&["AUTH PLAIN", &coded("\0u\0p")]), ["334", "235"]);
}

#[test]
fn one_connection_too_many_is_sent_away_until_another_ends() {
    let relay = Relay::with(Script { connections_at_a_time: 1, ..Script::default() });
    let mut first = Client::greeted(&relay);
    let mut second = Client::new(&relay);
    assert_eq!(second.hear(), "421 4.3.2 too many connections");
    assert_eq!(second.hear(), "");
    assert_eq!(first.codes(&["NOOP", "QUIT"]), ["250", "221"]);
    until("room for a connection", || (Client::new(&relay).hear().starts_with("220")).then_some(()));
}

#[test]
fn a_rule_holds_so_often_and_for_whom_it_says() {
    let refusal = Rule { after: 1, times: 1, ..Rule::reply(Step::Mail, &["451-4.3.0 one", "451 4.3.0 two"]) };
    let only = Rule { role: "x".to_owned(), ..Rule::reply(Step::Rcpt, &["553 no"]) };
    let relay = Relay::with(Script { rules: vec![refusal, only], ..Script::default() });
    let mut client = Client::greeted(&relay);
    assert_eq!(client.codes(&["MAIL FROM:<>", "RSET"]), ["250", "250"]);
    client.say(&["MAIL FROM:<>"]);
    assert_eq!([client.hear(), client.hear()], ["451-4.3.0 one", "451 4.3.0 two"]);
    assert_eq!(
        client.codes(&["MAIL FROM:<>", "RCPT TO:<x+1@a.example>", "RCPT TO:<y@a.example>"]),
        ["250", "553", "250"]
    );
}

#[test]
fn a_reset_is_a_reset_and_a_close_is_a_close() {
    for (act, is_reset) in [(Act::Reset(b"250 2.0".to_vec()), true), (Act::Close(b"250 2.0".to_vec()), false)]
    {
        let relay = Relay::with(Script { rules: vec![Rule::new(Step::Mail, act)], ..Script::default() });
        let mut client = Client::greeted(&relay);
        client.say(&["MAIL FROM:<>"]);
        let mut heard = Vec::new();
        let end = client.0.read_to_end(&mut heard);
        assert_eq!(end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset), is_reset);
        assert!(is_reset || heard == b"250 2.0", "half a reply");
    }
}
