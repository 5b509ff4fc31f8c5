//! The sample sessions that ship with the program: for the demo and for checking templates.

/// Name and content of each; the last one is hostile on purpose.
pub const SAMPLES: [(&str, &str); 11] = [
    ("call-50112.json", include_str!("../config/samples/call-50112.json")),
    ("call-50119.json", include_str!("../config/samples/call-50119.json")),
    ("call-50123.json", include_str!("../config/samples/call-50123.json")),
    ("call-50127.json", include_str!("../config/samples/call-50127.json")),
    ("call-50130.json", include_str!("../config/samples/call-50130.json")),
    ("call-50136.json", include_str!("../config/samples/call-50136.json")),
    ("chat-7301.json", include_str!("../config/samples/chat-7301.json")),
    ("chat-7306.json", include_str!("../config/samples/chat-7306.json")),
    ("chat-7312.json", include_str!("../config/samples/chat-7312.json")),
    ("chat-7318.json", include_str!("../config/samples/chat-7318.json")),
    ("hostile.json", include_str!("../config/samples/hostile.json")),
];
