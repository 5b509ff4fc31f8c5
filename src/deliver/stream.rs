//! The stream under an SMTP connection: TCP with or without TLS, and what the client library needs around it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use lettre::transport::smtp::client::AsyncTokioStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// The end of a message on the wire (RFC 5321, section 4.1.1.4), which the client library writes by itself.
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

/// A connection whose greeting and EHLO are over, made to look new to the client library.
///
/// The library wants to read a greeting, write EHLO and parse the reply by itself; its parser is ours to avoid
/// (it panics on a blank keyword line and reads keywords with their case). So it reads a greeting and a reply
/// written by us, and its EHLO goes nowhere. It also notes when the final dot of a message goes out.
pub struct Primed {
    stream: Stream,
    peer: SocketAddr,
    prepared: io::Cursor<Vec<u8>>,
    swallowed_hello: bool,
    dot_sent: Arc<AtomicBool>,
}

impl fmt::Debug for Primed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Primed({})", self.peer)
    }
}

impl Primed {
    /// `mechanisms` are those of AUTH that the server offered, upper case. The flag tells whether a final dot
    /// has gone out; who sends a message resets it first.
    pub fn new(stream: Stream, peer: SocketAddr, mechanisms: &[String], dot_sent: Arc<AtomicBool>) -> Self {
        let offer =
            if mechanisms.is_empty() { "READY".to_owned() } else { format!("AUTH {}", mechanisms.join(" ")) };
        let prepared = io::Cursor::new(format!("220 ready\r\n250-relay\r\n250 {offer}\r\n").into_bytes());
        Self { stream, peer, prepared, swallowed_hello: false, dot_sent }
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
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.prepared).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            Poll::Ready(Ok(()))
        } else {
            Pin::new(&mut this.stream).poll_read(cx, buf)
        }
    }
}

impl AsyncWrite for Primed {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.swallowed_hello {
            this.swallowed_hello = buf.ends_with(b"\r\n");
            return Poll::Ready(Ok(buf.len()));
        }
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, buf))?;
        if buf == FINAL_DOT && written > 0 {
            this.dot_sent.store(true, Ordering::Release);
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
