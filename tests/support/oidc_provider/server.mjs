// OpenID Connect by panva's oidc-provider, with people who log in by their name.
// usage: node server.mjs PORT REDIRECT_URI LOGGED_OUT_URI BACKCHANNEL_URI
import Provider from "oidc-provider";

const [port, redirectUri, loggedOutUri, backchannelUri] = process.argv.slice(2);
const issuer = `http://127.0.0.1:${port}`;
const GROUPS = { olga: ["operators"], victor: ["viewers"] };

const provider = new Provider(issuer, {
  clients: [{
    client_id: "gateway",
    client_secret: "a-secret-of-tests",
    redirect_uris: [redirectUri],
    post_logout_redirect_uris: [loggedOutUri],
    backchannel_logout_uri: backchannelUri,
    backchannel_logout_session_required: true,
    grant_types: ["authorization_code", "refresh_token"],
    response_types: ["code"],
  }, {
    client_id: "gateway-cli",
    application_type: "native",
    token_endpoint_auth_method: "none",
    redirect_uris: ["http://127.0.0.1/callback"],
    grant_types: [
      "authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code",
    ],
    response_types: ["code"],
  }],
  claims: { openid: ["sub", "acr", "auth_time", "sid"], groups: ["groups"] },
  conformIdTokenClaims: false,
  features: {
    backchannelLogout: { enabled: true },
    deviceFlow: { enabled: true },
    revocation: { enabled: true },
    rpInitiatedLogout: { enabled: true },
    devInteractions: { enabled: true },
  },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, groups: GROUPS[id] ?? [] }) }),
  issueRefreshToken: async (_, client) => client.grantTypeAllowed("refresh_token"),
  rotateRefreshToken: true,
  ttl: {
    AccessToken: 300, AuthorizationCode: 60, Grant: 3600, IdToken: 300, Interaction: 600,
    RefreshToken: 3600, Session: 3600,
  },
  // It refuses loopback addresses otherwise; here the client is on this machine.
  fetch: (url, { dispatcher, ...options }) => fetch(url, options),
  pkce: { required: () => true },
  cookies: { keys: ["a-key-of-tests"] },
});
provider.listen(Number(port), "127.0.0.1", () => console.log(issuer));
