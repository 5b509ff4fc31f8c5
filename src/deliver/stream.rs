//! The stream under an SMTP connection: TCP with or without TLS, and what the client library needs around it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use lettre::transport::smtp::client::AsyncTokioStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::crash::{Step, part, reached};

/// The most octets of one reply; RFC 5321 allows 512 a line and sets no limit to the lines.
pub const MAX_REPLY: usize = 16 * 1024;

/// The end of a message on the wire (RFC 5321, section 4.1.1.4). No command ends like this.
const FINAL_DOT: &[u8] = b"\r\n.\r\n";

/// A connection in the clear or under TLS.
#[derive(Debug)]
pub enum Stream {
    /// In the clear.
    Plain(TcpStream),
    /// Under TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// How far an exchange has come, shared between the stream and who drives it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Whether a final dot has gone out.
    dot_sent: AtomicBool,
    /// Replies that came in.
    heard: AtomicUsize,
    /// Replies that the driver has taken for the answer to something.
    answered: AtomicUsize,
}

impl Progress {
    /// Forgets the message before.
    pub fn begin(&self) {
        self.dot_sent.store(false, Ordering::Release);
    }

    /// Whether the final dot of the message has gone out.
    pub fn is_dot_sent(&self) -> bool {
        self.dot_sent.load(Ordering::Acquire)
    }

    /// Notes that a reply was taken for an answer.
    pub fn answered(&self) {
        self.answered.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether more replies came than were taken: nobody asked for the rest.
    fn has_unasked(&self) -> bool {
        self.heard.load(Ordering::Acquire) > self.answered.load(Ordering::Acquire)
    }
}

/// A connection whose greeting, EHLO and AUTH are over, made to look new to the client library.
///
/// The library wants to read a greeting, write EHLO and parse the reply by itself; its parser is ours to avoid
/// (it panics on a blank keyword line and reads keywords with their case). So it reads a greeting and a reply
/// written by us, and its EHLO goes nowhere. Later replies are put into the form that it can read (`Replies`).
/// Nothing is written while a reply waits that nobody asked for: one that comes before the final dot would be
/// taken for the answer to it.
pub struct Primed {
    stream: Stream,
    peer: SocketAddr,
    replies: Replies,
    swallowed_hello: bool,
    progress: Arc<Progress>,
}

impl fmt::Debug for Primed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Primed({})", self.peer)
    }
}

impl Primed {
    /// A stream behind EHLO and AUTH.
    pub fn new(stream: Stream, peer: SocketAddr, progress: Arc<Progress>) -> Self {
        let mut replies = Replies::default();
        replies.ready.extend(b"220 ready\r\n250-relay\r\n250 READY\r\n");
        Self { stream, peer, replies, swallowed_hello: false, progress }
    }

    /// Reads once what the server has sent; false at its end.
    fn poll_replies(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut octets = [0; 1024];
        let mut received = ReadBuf::new(&mut octets);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut received))?;
        let heard = self.replies.take(received.filled())?;
        self.progress.heard.fetch_add(heard, Ordering::AcqRel);
        Poll::Ready(Ok(!received.filled().is_empty()))
    }
}

impl AsyncTokioStream for Primed {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }
}

impl AsyncRead for Primed {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.replies.ready.is_empty() {
            if !ready!(this.poll_replies(cx))? {
                return Poll::Ready(Ok(()));
            }
        }
        let count = buf.remaining().min(this.replies.ready.len());
        buf.put_slice(&this.replies.ready[..count]);
        this.replies.ready.drain(..count);
        Poll::Ready(Ok(()))
    }
}

/// Replies in the form that the client library can read: it takes a reply for broken, and with it the fate of a
/// message for unknown, when a line has no text behind its code (RFC 5321, section 4.2 allows that), ends in a
/// bare LF, or holds octets outside ASCII. Replies without an end are cut off.
#[derive(Default)]
struct Replies {
    ready: Vec<u8>,
    column: usize,
    /// Whether the line says that another one follows.
    continues: bool,
    octets: usize,
}

impl Replies {
    /// Takes what came in and says how many replies ended in it.
    fn take(&mut self, received: &[u8]) -> io::Result<usize> {
        let mut ended = 0;
        self.octets += received.len();
        if self.octets > MAX_REPLY {
            return Err(io::Error::other(format!("the reply is longer than {MAX_REPLY} octets")));
        }
        for octet in received {
            match octet {
                b'\r' => continue,
                b'\n' => {
                    if self.column == 3 {
                        self.ready.push(b' ');
                    }
                    self.ready.extend(b"\r\n");
                    ended += usize::from(!self.continues);
                    (self.column, self.continues) = (0, false);
                    continue;
                }
                b'-' if self.column == 3 => {
                    self.continues = true;
                    self.ready.push(b'-');
                }
                0x20..0x7f => self.ready.push(*octet),
                _ => self.ready.push(b'?'),
            }
            self.column += 1;
        }
        Ok(ended)
    }
}

impl AsyncWrite for Primed {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.swallowed_hello {
            this.swallowed_hello = buf.ends_with(b"\r\n");
            return Poll::Ready(Ok(buf.len()));
        }
        this.replies.octets = 0;
        if let Poll::Ready(replies) = this.poll_replies(cx)
            && !replies?
        {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the server closed the connection",
            )));
        }
        if this.progress.has_unasked() {
            return Poll::Ready(Err(io::Error::other("the server answered before it was asked")));
        }
        let to_write = if buf.ends_with(FINAL_DOT) { part(Step::MessageHalf, buf) } else { buf };
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, to_write))?;
        if written < buf.len() {
            reached(Step::MessageHalf);
        } else if buf.starts_with(b"MAIL ") {
            reached(Step::EnvelopeSent);
        }
        if written == buf.len() && (buf.ends_with(FINAL_DOT) || FINAL_DOT.ends_with(buf)) {
            this.progress.dot_sent.store(true, Ordering::Release);
            reached(Step::MessageSent);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_put_into_the_form_that_the_library_reads() {
        let table: &[(&[u8], &str)] = &[
            (b"250 ok\r\n", "250 ok\r\n"),
            (b"250\r\n", "250 \r\n"),
            (b"250 ok\n", "250 ok\r\n"),
            (b"250-a\r\n250 angenommen f\xfcr\r\n", "250-a\r\n250 angenommen f?r\r\n"),
            (b"250 a\rb\r\n", "250 ab\r\n"),
        ];
        for (received, read) in table {
            for at in 0..received.len() {
                let mut replies = Replies::default();
                replies.take(&received[..at]).unwrap();
                replies.take(&received[at..]).unwrap();
                assert_eq!(String::from_utf8_lossy(&replies.ready), *read, "cut at {at}");
            }
        }
        assert!(Replies::default().take(&vec![b'x'; MAX_REPLY + 1]).is_err());
    }
}
