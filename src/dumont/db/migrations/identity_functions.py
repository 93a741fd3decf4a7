"""SQL of the functions that revision 0005 brings for sessions, tokens and teams, and of those that it replaces."""

_DEFINER = "SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp"
_NOBODY = "NULL::text, NULL::text, NULL::text, NULL::text, NULL::text"

ENTER = f"""
CREATE OR REPLACE FUNCTION dumont_enter(p_session text, p_user text, p_jti text, p_team text, p_now timestamptz)
RETURNS TABLE (outcome text, email text, username text, team_id text, team_name text, role text)
LANGUAGE plpgsql {_DEFINER} AS $$
#variable_conflict use_column
DECLARE
    v record;
    v_team text;
BEGIN
    SELECT s.user_id, s.jti, s.previous_jti, s.team_id, s.expires_at, s.revoked_at, s.last_used_at,
           u.email, u.username, u.disabled_at INTO v
      FROM login_session s JOIN user_account u ON u.id = s.user_id WHERE s.id = p_session;
    IF NOT FOUND OR v.user_id <> p_user THEN
        RETURN QUERY SELECT 'unknown', {_NOBODY};
    ELSIF v.revoked_at IS NOT NULL OR v.disabled_at IS NOT NULL
          OR (v.jti <> p_jti AND v.previous_jti IS DISTINCT FROM p_jti) THEN
        RETURN QUERY SELECT 'revoked', {_NOBODY};
    ELSIF v.expires_at <= p_now THEN
        RETURN QUERY SELECT 'expired', {_NOBODY};
    ELSE
        v_team := coalesce(p_team, v.team_id);
        PERFORM set_config('dumont.team_id', v_team, true), set_config('dumont.user_id', p_user, true);
        RETURN QUERY SELECT 'welcome', v.email, v.username, t.id, t.name, m.role
          FROM membership m JOIN team t ON t.id = m.team_id
         WHERE m.team_id = v_team AND m.user_id = p_user AND t.closed_at IS NULL;
        IF NOT FOUND THEN
            PERFORM set_config('dumont.team_id', '', true), set_config('dumont.user_id', '', true);
            RETURN QUERY SELECT 'stranger', {_NOBODY};
        ELSIF v.last_used_at IS NULL OR v.last_used_at < p_now - interval '1 minute' THEN
            UPDATE login_session SET last_used_at = p_now WHERE id =
                (SELECT s.id FROM login_session s WHERE s.id = p_session FOR NO KEY UPDATE SKIP LOCKED);
        END IF;
    END IF;
END
$$
"""

ENTER_BEFORE = """
CREATE OR REPLACE FUNCTION dumont_enter(p_session text, p_user text, p_jti text, p_team text, p_now timestamptz)
RETURNS TABLE (outcome text, email text, username text, team_id text, team_name text, role text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    v record;
    v_team text;
BEGIN
    SELECT s.user_id, s.jti, s.team_id, s.expires_at, s.revoked_at, u.email, u.username, u.disabled_at INTO v
      FROM login_session s JOIN user_account u ON u.id = s.user_id WHERE s.id = p_session;
    IF NOT FOUND OR v.user_id <> p_user THEN
        RETURN QUERY SELECT 'unknown', NULL::text, NULL::text, NULL::text, NULL::text, NULL::text;
    ELSIF v.revoked_at IS NOT NULL OR v.disabled_at IS NOT NULL OR v.jti <> p_jti THEN
        RETURN QUERY SELECT 'revoked', NULL::text, NULL::text, NULL::text, NULL::text, NULL::text;
    ELSIF v.expires_at <= p_now THEN
        RETURN QUERY SELECT 'expired', NULL::text, NULL::text, NULL::text, NULL::text, NULL::text;
    ELSE
        v_team := coalesce(p_team, v.team_id);
        PERFORM set_config('dumont.team_id', v_team, true), set_config('dumont.user_id', p_user, true);
        RETURN QUERY SELECT 'welcome', v.email, v.username, t.id, t.name, m.role
          FROM membership m JOIN team t ON t.id = m.team_id WHERE m.team_id = v_team AND m.user_id = p_user;
        IF NOT FOUND THEN
            PERFORM set_config('dumont.team_id', '', true), set_config('dumont.user_id', '', true);
            RETURN QUERY SELECT 'stranger', NULL::text, NULL::text, NULL::text, NULL::text, NULL::text;
        END IF;
    END IF;
END
$$
"""

_OPEN = f"""
CREATE FUNCTION dumont_open_session(p_session text, p_user text, p_jti text, p_created timestamptz,
                                    p_expires timestamptz, p_hash bytea, p_ip text, p_agent text)
RETURNS TABLE (outcome text, email text, team_id text, role text) LANGUAGE plpgsql {_DEFINER} AS $$
#variable_conflict use_column
DECLARE
    v_user record;
    v_place record;
BEGIN
    SELECT u.email, u.current_team_id INTO v_user FROM user_account u WHERE u.id = p_user AND u.disabled_at IS NULL;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'disabled', NULL::text, NULL::text, NULL::text;
        RETURN;
    END IF;
    PERFORM set_config('dumont.sweep', 'on', true);
    SELECT m.team_id, m.role INTO v_place FROM membership m JOIN team t ON t.id = m.team_id
     WHERE m.user_id = p_user AND t.closed_at IS NULL
     ORDER BY m.team_id = v_user.current_team_id DESC, m.created_at, m.team_id LIMIT 1;
    PERFORM set_config('dumont.sweep', '', true);
    IF v_place.team_id IS NULL THEN
        RETURN QUERY SELECT 'teamless', v_user.email, NULL::text, NULL::text;
        RETURN;
    END IF;
    PERFORM set_config('dumont.team_id', v_place.team_id, true), set_config('dumont.user_id', p_user, true);
    UPDATE user_account SET current_team_id = v_place.team_id
     WHERE id = p_user AND current_team_id <> v_place.team_id;
    DELETE FROM login_session s WHERE s.user_id = p_user AND s.expires_at < p_created - interval '30 days';
    UPDATE refresh_token r SET retry_key = NULL, retry_answer = NULL FROM login_session s
     WHERE s.id = r.session_id AND s.user_id = p_user AND r.retry_answer IS NOT NULL
       AND r.spent_at < p_created - interval '1 minute';
    INSERT INTO login_session (id, user_id, team_id, jti, created_at, expires_at, last_used_at, ip, user_agent)
    VALUES (p_session, p_user, v_place.team_id, p_jti, p_created, p_expires, p_created, p_ip, p_agent);
    INSERT INTO refresh_token (hash, session_id, created_at, expires_at)
    VALUES (p_hash, p_session, p_created, p_expires);
    RETURN QUERY SELECT 'welcome', v_user.email, v_place.team_id, v_place.role;
END
$$
"""

OPEN_BEFORE = """
CREATE FUNCTION dumont_open_session(p_session text, p_user text, p_jti text, p_created timestamptz,
                                    p_expires timestamptz, p_ip text, p_agent text)
RETURNS TABLE (email text, team_id text, role text) LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    v_team text;
    v_email text;
BEGIN
    SELECT u.current_team_id, u.email INTO v_team, v_email FROM user_account u
     WHERE u.id = p_user AND u.disabled_at IS NULL;
    PERFORM set_config('dumont.team_id', coalesce(v_team, ''), true), set_config('dumont.user_id', p_user, true);
    RETURN QUERY SELECT v_email, m.team_id, m.role FROM membership m WHERE m.team_id = v_team AND m.user_id = p_user;
    IF FOUND THEN
        INSERT INTO login_session (id, user_id, team_id, jti, created_at, expires_at, ip, user_agent)
        VALUES (p_session, p_user, v_team, p_jti, p_created, p_expires, p_ip, p_agent);
    END IF;
END
$$
"""

OPEN_OLD = "dumont_open_session(text, text, text, timestamptz, timestamptz, text, text)"

FUNCTIONS = {
    "dumont_open_session(text, text, text, timestamptz, timestamptz, bytea, text, text)": _OPEN,
    "dumont_enter_token(bytea, text, timestamptz)": f"""
CREATE FUNCTION dumont_enter_token(p_hash bytea, p_team text, p_now timestamptz)
RETURNS TABLE (outcome text, email text, username text, team_id text, team_name text, role text,
               user_id text, token_id text, scopes text[], expires_at timestamptz)
LANGUAGE plpgsql {_DEFINER} AS $$
#variable_conflict use_column
DECLARE
    v record;
    v_outcome text;
BEGIN
    PERFORM set_config('dumont.sweep', 'on', true);
    SELECT k.id, k.user_id, k.team_id, k.scopes, k.expires_at, k.revoked_at, k.last_used_at,
           u.email, u.username, u.disabled_at, t.name AS team_name, t.closed_at, m.role INTO v
      FROM api_token k JOIN user_account u ON u.id = k.user_id JOIN team t ON t.id = k.team_id
      LEFT JOIN membership m ON m.team_id = k.team_id AND m.user_id = k.user_id WHERE k.hash = p_hash;
    v_outcome := CASE
        WHEN v.id IS NULL THEN 'unknown'
        WHEN v.revoked_at IS NOT NULL OR v.disabled_at IS NOT NULL OR v.closed_at IS NOT NULL OR v.role IS NULL
            THEN 'revoked'
        WHEN v.expires_at <= p_now THEN 'expired'
        WHEN p_team <> v.team_id THEN 'stranger'
        ELSE 'welcome' END;
    IF v_outcome = 'welcome' AND coalesce(v.last_used_at, '-infinity') < p_now - interval '1 minute' THEN
        UPDATE api_token SET last_used_at = p_now WHERE id =
            (SELECT k.id FROM api_token k WHERE k.id = v.id FOR NO KEY UPDATE SKIP LOCKED);
    END IF;
    PERFORM set_config('dumont.sweep', '', true);
    IF v_outcome = 'welcome' THEN
        PERFORM set_config('dumont.team_id', v.team_id, true), set_config('dumont.user_id', v.user_id, true);
        RETURN QUERY SELECT v_outcome, v.email, v.username, v.team_id, v.team_name, v.role,
                            v.user_id, v.id, v.scopes, v.expires_at;
    ELSE
        RETURN QUERY SELECT v_outcome, {_NOBODY}, NULL::text, NULL::text, NULL::text[], NULL::timestamptz;
    END IF;
END
$$
""",
    "dumont_rotate(text, text, text, bytea, timestamptz, timestamptz)": f"""
CREATE FUNCTION dumont_rotate(p_session text, p_team text, p_jti text, p_hash bytea, p_now timestamptz,
                              p_expires timestamptz)
RETURNS void LANGUAGE plpgsql {_DEFINER} AS $$
BEGIN
    UPDATE refresh_token SET spent_at = p_now WHERE session_id = p_session AND spent_at IS NULL;
    UPDATE refresh_token SET retry_key = NULL, retry_answer = NULL
     WHERE session_id = p_session AND retry_answer IS NOT NULL AND spent_at < p_now - interval '1 minute';
    DELETE FROM refresh_token WHERE session_id = p_session AND expires_at < p_now;
    UPDATE login_session SET previous_jti = jti, jti = p_jti, team_id = p_team, last_used_at = p_now,
           expires_at = p_expires WHERE id = p_session;
    INSERT INTO refresh_token (hash, session_id, created_at, expires_at) VALUES (p_hash, p_session, p_now, p_expires);
END
$$
""",
    "dumont_refresh(bytea, bytea, text, timestamptz, timestamptz, bytea)": f"""
CREATE FUNCTION dumont_refresh(p_hash bytea, p_next bytea, p_jti text, p_now timestamptz, p_expires timestamptz,
                               p_retry_key bytea)
RETURNS TABLE (outcome text, session_id text, user_id text, email text, team_id text, role text, answer bytea)
LANGUAGE plpgsql {_DEFINER} AS $$
#variable_conflict use_column
DECLARE
    v record;
    v_role text;
    v_outcome text;
BEGIN
    SELECT r.session_id, r.expires_at, r.spent_at, r.retry_key, r.retry_answer, s.user_id, s.team_id, s.revoked_at,
           u.email, u.disabled_at INTO v
      FROM refresh_token r JOIN login_session s ON s.id = r.session_id JOIN user_account u ON u.id = s.user_id
     WHERE r.hash = p_hash FOR UPDATE OF r, s;
    IF v.session_id IS NOT NULL THEN
        PERFORM set_config('dumont.team_id', v.team_id, true), set_config('dumont.user_id', v.user_id, true);
        SELECT m.role INTO v_role FROM membership m JOIN team t ON t.id = m.team_id
         WHERE m.team_id = v.team_id AND m.user_id = v.user_id AND t.closed_at IS NULL;
    END IF;
    v_outcome := CASE
        WHEN v.session_id IS NULL THEN 'unknown'
        WHEN v.revoked_at IS NOT NULL OR v.disabled_at IS NOT NULL OR v_role IS NULL THEN 'revoked'
        WHEN v.spent_at IS NOT NULL AND v.retry_key = p_retry_key AND v.retry_answer IS NOT NULL
             AND p_now < v.spent_at + interval '1 minute' THEN 'again'
        WHEN v.spent_at IS NOT NULL THEN 'reused'
        WHEN v.expires_at <= p_now THEN 'expired'
        ELSE 'welcome' END;
    IF v_outcome = 'reused' THEN
        UPDATE login_session SET revoked_at = p_now WHERE id = v.session_id;
    ELSIF v_outcome = 'welcome' THEN
        PERFORM dumont_rotate(v.session_id, v.team_id, p_jti, p_next, p_now, p_expires);
    END IF;
    RETURN QUERY SELECT v_outcome, v.session_id, v.user_id, v.email, v.team_id, v_role, v.retry_answer;
END
$$
""",
    "dumont_keep_refresh(bytea, bytea, bytea)": f"""
CREATE FUNCTION dumont_keep_refresh(p_hash bytea, p_retry_key bytea, p_answer bytea)
RETURNS void LANGUAGE sql {_DEFINER} AS $$
    UPDATE refresh_token SET retry_key = p_retry_key, retry_answer = p_answer
     WHERE hash = p_hash AND spent_at IS NOT NULL AND retry_answer IS NULL
$$
""",
    "dumont_switch_team(text, text, text, bytea, timestamptz, timestamptz)": f"""
CREATE FUNCTION dumont_switch_team(p_session text, p_team text, p_jti text, p_hash bytea, p_now timestamptz,
                                   p_expires timestamptz)
RETURNS TABLE (email text, team_id text, team_name text, role text) LANGUAGE plpgsql {_DEFINER} AS $$
#variable_conflict use_column
DECLARE
    v_user text := current_setting('dumont.user_id', true);
    v_place record;
BEGIN
    PERFORM 1 FROM login_session s
     WHERE s.id = p_session AND s.user_id = v_user AND s.revoked_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    PERFORM set_config('dumont.sweep', 'on', true);
    SELECT u.email, t.id, t.name, m.role INTO v_place
      FROM membership m JOIN team t ON t.id = m.team_id JOIN user_account u ON u.id = m.user_id
     WHERE m.team_id = p_team AND m.user_id = v_user AND t.closed_at IS NULL;
    PERFORM set_config('dumont.sweep', '', true);
    IF v_place.id IS NOT NULL THEN
        PERFORM dumont_rotate(p_session, p_team, p_jti, p_hash, p_now, p_expires);
        UPDATE user_account SET current_team_id = p_team WHERE id = v_user;
        RETURN QUERY SELECT v_place.email, v_place.id, v_place.name, v_place.role;
    END IF;
END
$$
""",
    "dumont_sessions(timestamptz)": f"""
CREATE FUNCTION dumont_sessions(p_now timestamptz)
RETURNS TABLE (id text, created_at timestamptz, last_used_at timestamptz, ip text, user_agent text)
LANGUAGE sql STABLE {_DEFINER} AS $$
    SELECT s.id, s.created_at, coalesce(s.last_used_at, s.created_at), s.ip, s.user_agent FROM login_session s
     WHERE s.user_id = current_setting('dumont.user_id', true) AND s.revoked_at IS NULL AND s.expires_at > p_now
     ORDER BY 3 DESC, s.id DESC
$$
""",
    "dumont_own_password()": f"""
CREATE FUNCTION dumont_own_password() RETURNS TABLE (email text, password_hash text)
LANGUAGE sql STABLE {_DEFINER} AS $$
    SELECT u.email, u.password_hash FROM user_account u WHERE u.id = current_setting('dumont.user_id', true)
$$
""",
    "dumont_change_password(text, text, timestamptz)": f"""
CREATE FUNCTION dumont_change_password(p_hash text, p_session text, p_now timestamptz)
RETURNS integer LANGUAGE plpgsql {_DEFINER} AS $$
DECLARE
    v_user text := current_setting('dumont.user_id', true);
    v_closed integer;
BEGIN
    UPDATE user_account SET password_hash = p_hash WHERE id = v_user;
    UPDATE login_session SET revoked_at = p_now WHERE user_id = v_user AND revoked_at IS NULL AND id <> p_session;
    GET DIAGNOSTICS v_closed = ROW_COUNT;
    RETURN v_closed;
END
$$
""",
    "dumont_profile()": f"""
CREATE FUNCTION dumont_profile()
RETURNS TABLE (id text, email text, name text, locale text, timezone text, currency text)
LANGUAGE sql STABLE {_DEFINER} AS $$
    SELECT u.id, u.email, u.name, u.locale, u.timezone, u.currency FROM user_account u
     WHERE u.id = current_setting('dumont.user_id', true)
$$
""",
    "dumont_change_profile(text, text, text, text)": f"""
CREATE FUNCTION dumont_change_profile(p_name text, p_locale text, p_timezone text, p_currency text)
RETURNS void LANGUAGE sql {_DEFINER} AS $$
    UPDATE user_account SET name = p_name, locale = p_locale, timezone = p_timezone, currency = p_currency
     WHERE id = current_setting('dumont.user_id', true)
$$
""",
    "dumont_teams()": f"""
CREATE FUNCTION dumont_teams()
RETURNS TABLE (id text, name text, role text, member_count bigint, created_at timestamptz)
LANGUAGE plpgsql {_DEFINER} AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('dumont.sweep', 'on', true);
    RETURN QUERY SELECT t.id, t.name, m.role,
           (SELECT count(*) FROM membership o WHERE o.team_id = t.id), t.created_at
      FROM membership m JOIN team t ON t.id = m.team_id
     WHERE m.user_id = current_setting('dumont.user_id', true) AND t.closed_at IS NULL
     ORDER BY t.created_at, t.id;
    PERFORM set_config('dumont.sweep', '', true);
END
$$
""",
    "dumont_create_team(text, text, text, timestamptz)": f"""
CREATE FUNCTION dumont_create_team(p_team text, p_name text, p_user text, p_now timestamptz)
RETURNS void LANGUAGE plpgsql {_DEFINER} AS $$
BEGIN
    PERFORM set_config('dumont.team_id', p_team, true), set_config('dumont.user_id', p_user, true);
    INSERT INTO team (id, name, created_at) VALUES (p_team, p_name, p_now);
    INSERT INTO membership (team_id, user_id, role, created_at) VALUES (p_team, p_user, 'admin', p_now);
END
$$
""",
    "dumont_members()": f"""
CREATE FUNCTION dumont_members()
RETURNS TABLE (user_id text, email text, name text, role text, joined_at timestamptz)
LANGUAGE sql STABLE {_DEFINER} AS $$
    SELECT m.user_id, u.email, u.name, m.role, m.created_at
      FROM membership m JOIN user_account u ON u.id = m.user_id
     WHERE m.team_id = current_setting('dumont.team_id', true) ORDER BY m.created_at, m.user_id
$$
""",
    "dumont_end_access(text, timestamptz)": f"""
CREATE FUNCTION dumont_end_access(p_user text, p_now timestamptz)
RETURNS void LANGUAGE plpgsql {_DEFINER} AS $$
DECLARE
    v_team text := current_setting('dumont.team_id', true);
BEGIN
    UPDATE login_session SET revoked_at = p_now
     WHERE team_id = v_team AND revoked_at IS NULL AND (p_user IS NULL OR user_id = p_user);
    UPDATE api_token SET revoked_at = p_now
     WHERE team_id = v_team AND revoked_at IS NULL AND (p_user IS NULL OR user_id = p_user);
END
$$
""",
}
