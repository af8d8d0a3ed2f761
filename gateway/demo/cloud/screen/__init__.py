"""The simulated cloud's consoles: a screen and a keyboard per server, over RFB in a WebSocket.

    console_listener  the console host: TLS, both WebSocket shapes, tokens, control paths
    console_tokens    tokens of console links, which expire or are good once
    server_screen     the machine behind a console: text screen, shell, viewers
    screen_session    one RFB connection: handshake, messages, updates
    screen_faults     what a hostile or broken server does instead
    tile_encoder      Raw, Hextile, CopyRect and pseudo-rectangles from text cells
    text_screen       cells, cursor, scrolling, and what changed for each viewer
    font              the glyphs

It shares no code with the gateway's parsers, so that one error cannot hide in both.
"""
