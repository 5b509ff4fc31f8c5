# The whole loop: what must pass before a change is offered.
check:
    cargo fmt --check
    cargo clippy --all-targets -- -D warnings
    cargo test
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

# Sample sessions, two tenants, a mail server on loopback.
demo:
    cargo run --release -- demo

# The tests whose names hold NAME.
test NAME:
    cargo test {{ NAME }}

# The measurements in benches/.
bench:
    cargo bench
