"""Why a compile failed, and what to do about it."""
