from undersong.services.keys.custodian.tables import Base
from undersong.shared.database.migrations import run_env

run_env(Base.metadata)
